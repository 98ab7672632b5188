//! MicroShift, whose paths cannot be configured (openshift/microshift: `pkg/config/files.go`,
//! `pkg/util/cryptomaterial/certinfo.go`, `pkg/controllers/etcd.go`).
//!
//! The archive contains what MicroShift's own backup contains, except etcd's data, and also its configuration.

use super::api_server::ApiServer;
use super::found::{Found, Member, Platform, PlatformError};
use super::node_files::NodeFiles;

const CONFIG_DIR: &str = "/etc/microshift";
const DATA_DIR: &str = "/var/lib/microshift";
const ENDPOINT: &str = "https://localhost:2379";

pub(super) fn find(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    let data_dir = format!("{DATA_DIR}/etcd");
    if !files.exists(&data_dir) {
        // Assuming a plain etcd instead would hide that MicroShift must be started.
        return if files.exists(&format!("{CONFIG_DIR}/config.yaml.default")) {
            Err(PlatformError::NoEtcd(format!(
                "MicroShift is installed but was never started ({data_dir} is missing)"
            )))
        } else {
            Ok(None)
        };
    }
    let signer = format!("{DATA_DIR}/certs/etcd-signer");
    let client = format!("{signer}/apiserver-etcd-client/client");
    let below = [
        "certs",
        "resources",
        "kubelet-plugins",
        "version",
        ".nodename",
    ];
    let resources = std::iter::once(CONFIG_DIR.to_string())
        .chain(below.map(|path| format!("{DATA_DIR}/{path}")));
    let member = Member {
        platform: Platform::MicroShift,
        found_in: vec![data_dir.clone()],
        endpoint: ENDPOINT.into(),
        ca: Some(format!("{signer}/ca.crt")),
        clients: vec![(format!("{client}.crt"), format!("{client}.key"))],
        resources: resources.collect(),
        data_dir: Some(data_dir),
        api_server: ApiServer::default(),
        files,
    };
    member.complete().map(Some)
}
