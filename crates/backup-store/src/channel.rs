//! A connection: the address, TLS, and the time that it may take.

use crate::local_file::read_small;
use crate::member_error::MemberError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a snapshot a member may send ahead. With HTTP/2's default of 64 KiB it waits after every
/// second piece.
const WINDOW_BYTES: u32 = 1 << 20;

/// How to connect to a member.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// `https://host:port`, `http://host:port`, or `host:port`.
    pub endpoint: String,
    /// The certificate authority of the member's certificate, as PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, as PEM.
    pub cert_file: Option<PathBuf>,
    /// The key of the client's certificate, as PEM.
    pub key_file: Option<PathBuf>,
    /// A user and its password, where authentication is enabled.
    pub user: Option<User>,
}

/// A user of etcd.
#[derive(Clone)]
pub struct User {
    /// Its name in etcd's authentication.
    pub name: String,
    /// Its password, in plain text. `Debug` output does not contain it.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Opens a connection, and gives the URL with it.
///
/// # Errors
/// The address or the certificates cannot be used, or nothing answers.
pub(crate) async fn open(connection: &Connection) -> Result<(String, Channel), MemberError> {
    let url = url_of(connection)?;
    let endpoint_error = |problem: String| MemberError::Endpoint {
        endpoint: connection.endpoint.clone(),
        problem,
    };
    let mut endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| endpoint_error(error.to_string()))?
        .connect_timeout(DIAL_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    if url.starts_with("https://") {
        endpoint = endpoint
            .tls_config(tls(connection).await?)
            .map_err(|error| endpoint_error(causes(&error)))?;
    }
    // The limit includes the TLS handshake: a frozen member still accepts connections.
    let channel = tokio::time::timeout(DIAL_TIMEOUT, endpoint.connect())
        .await
        .map_err(|_| MemberError::NoAnswer {
            endpoint: url.clone(),
            what: "the connection attempt",
            within: DIAL_TIMEOUT,
        })?
        .map_err(|error| MemberError::Dial {
            endpoint: url.clone(),
            problem: causes(&error),
            refused: is_refused(&error),
        })?;
    Ok((url, channel))
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

/// The URL of the endpoint. An address without a scheme uses TLS if a certificate is given.
fn url_of(connection: &Connection) -> Result<String, MemberError> {
    let wrong = |problem: &str| MemberError::Endpoint {
        endpoint: connection.endpoint.clone(),
        problem: problem.into(),
    };
    let given = connection.endpoint.trim();
    if given.is_empty() {
        return Err(wrong(
            "the endpoint is empty: use one such as https://127.0.0.1:2379",
        ));
    }
    if given.contains(',') {
        return Err(wrong(
            "several endpoints were given, expected one: the answer must come from one member",
        ));
    }
    match given.split_once("://") {
        Some(("http" | "https", _)) => Ok(given.into()),
        Some(_) => Err(wrong("the scheme must be http or https")),
        None if connection.ca_file.is_some() || connection.cert_file.is_some() => {
            Ok(format!("https://{given}"))
        }
        None => Ok(format!("http://{given}")),
    }
}

async fn tls(connection: &Connection) -> Result<ClientTlsConfig, MemberError> {
    let wrong = |problem: &str| MemberError::Endpoint {
        endpoint: connection.endpoint.clone(),
        problem: problem.into(),
    };
    let ca = connection.ca_file.as_ref().ok_or_else(|| {
        wrong("https requires the certificate authority of the member: use --cacert")
    })?;
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca).await?));
    config = match (&connection.cert_file, &connection.key_file) {
        (Some(cert), Some(key)) => {
            config.identity(Identity::from_pem(read(cert).await?, read(key).await?))
        }
        (None, None) => config,
        _ => return Err(wrong("--cert and --key must be used together")),
    };
    Ok(config)
}

/// Reads a certificate or a key on its own thread, because the file may be a pipe or on a disk that hangs.
async fn read(path: &Path) -> Result<Vec<u8>, MemberError> {
    const MAX_BYTES: u64 = 1 << 20;
    let own = path.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || read_small(&own, MAX_BYTES));
    let read = match tokio::time::timeout(DIAL_TIMEOUT, reading).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    read.map_err(|source| MemberError::File {
        path: path.into(),
        source,
    })
}

/// An error with all its causes. The outermost error alone is only "transport error".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(endpoint: &str, ca: bool) -> Result<String, String> {
        url_of(&Connection {
            endpoint: endpoint.into(),
            ca_file: ca.then(|| "ca.crt".into()),
            ..Connection::default()
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn a_bare_address_is_https_when_there_are_certificates() {
        assert_eq!(url("10.0.0.1:2379", false).unwrap(), "http://10.0.0.1:2379");
        assert_eq!(url("10.0.0.1:2379", true).unwrap(), "https://10.0.0.1:2379");
        assert_eq!(url("http://a:1", true).unwrap(), "http://a:1");
    }

    #[test]
    fn a_wrong_endpoint_is_told_with_what_is_expected() {
        assert!(
            url("", false)
                .unwrap_err()
                .contains("https://127.0.0.1:2379")
        );
        assert!(url("a:1,b:1", false).unwrap_err().contains("expected one"));
        assert!(
            url("unix://x", false)
                .unwrap_err()
                .contains("http or https")
        );
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let user = User {
            name: "root".into(),
            password: "secret".into(),
        };
        assert!(!format!("{user:?}").contains("secret"));
    }
}
