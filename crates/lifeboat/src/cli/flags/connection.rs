//! The flags for the connection to a member, and the environment variables of etcdctl for the same purpose.

use backup_store::member::{Connection, User};
use std::path::PathBuf;

/// Flags for the connection to a member.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// CA certificate to verify the member's certificate (PEM file)
    #[arg(
        long,
        value_name = "FILE",
        env = "ETCDCTL_CACERT",
        hide_env_values = true
    )]
    cacert: Option<PathBuf>,
    /// Client certificate (PEM file)
    #[arg(
        long,
        value_name = "FILE",
        env = "ETCDCTL_CERT",
        hide_env_values = true
    )]
    cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM file)
    #[arg(long, value_name = "FILE", env = "ETCDCTL_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
    /// User of etcd; the password can also be in ETCDCTL_PASSWORD
    #[arg(
        long,
        value_name = "NAME[:PASSWORD]",
        env = "ETCDCTL_USER",
        hide_env_values = true
    )]
    user: Option<String>,
}

impl ConnectionArgs {
    /// Makes the connection from flags and environment variables, or returns what is missing.
    pub(crate) fn to_connection(&self, endpoint: String) -> Result<Connection, String> {
        let user = match &self.user {
            None => None,
            Some(user) => Some(match user.split_once(':') {
                Some((name, password)) => User {
                    name: name.into(),
                    password: password.into(),
                },
                None => User {
                    name: user.clone(),
                    password: std::env::var("ETCDCTL_PASSWORD").map_err(|_| {
                        format!("--user {user} has no password: give --user {user}:PASSWORD or set ETCDCTL_PASSWORD")
                    })?,
                },
            }),
        };
        if self.cert.is_some() != self.key.is_some() {
            return Err("--cert and --key must be used together: give both or neither".into());
        }
        Ok(Connection {
            endpoint,
            ca_file: self.cacert.clone(),
            cert_file: self.cert.clone(),
            key_file: self.key.clone(),
            user,
        })
    }
}
