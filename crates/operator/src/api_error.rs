//! Errors of the API server.

/// The message of an error of the API server, without the repetitions in the library's text.
#[must_use]
pub fn api_error_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Ignores the error that an object does not exist.
pub(crate) fn ignore_not_found<T>(written: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()),
    }
}
