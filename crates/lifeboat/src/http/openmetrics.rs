//! Writes metrics in the OpenMetrics format.

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use std::fmt;

/// The media type of [`text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Encodes all metrics of a collector as text.
pub(crate) fn text(view: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("etcd_lifeboat");
    registry.register_collector(Box::new(view));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Writes metrics one after another.
pub(crate) struct Metrics<'e>(DescriptorEncoder<'e>);

impl<'e> Metrics<'e> {
    pub(crate) fn new(encoder: DescriptorEncoder<'e>) -> Self {
        Metrics(encoder)
    }
}

impl Metrics<'_> {
    pub(crate) fn family<M: EncodeMetric + TypedMetric>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (impl EncodeLabelSet, M)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, M::TYPE)?;
        for (labels, value) in values {
            value.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let Some(value) = value else {
            return Ok(());
        };
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    pub(crate) fn time(&mut self, name: &str, help: &str, value: Option<Timestamp>) -> fmt::Result {
        self.gauge(name, help, value.map(seconds))
    }
}

pub(crate) fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

pub(crate) fn flag(value: bool) -> Option<f64> {
    Some(f64::from(u8::from(value)))
}

pub(crate) fn number(value: u64) -> Option<f64> {
    Some(value as f64)
}
