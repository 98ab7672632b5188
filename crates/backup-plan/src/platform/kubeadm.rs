//! The static pod that kubeadm writes (kubernetes/kubernetes: `cmd/kubeadm/app/phases/etcd/local.go`), also
//! if kubespray uses kubeadm, which then has its certificates in another directory.

use super::api_server::ApiServer;
use super::found::{Found, Member, Platform, PlatformError, read};
use super::node_files::{NodeFiles, parent};
use super::static_pod::StaticPod;

const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";
pub(super) const API_SERVER_MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
/// The kubelet's configuration, flags and certificates.
pub(super) const KUBELET: [&str; 3] = [
    "/var/lib/kubelet/config.yaml",
    "/var/lib/kubelet/kubeadm-flags.env",
    "/var/lib/kubelet/pki",
];
const CONFIG_DIR: &str = "/etc/kubernetes";
const CA: &str = "/etc/kubernetes/pki/etcd/ca.crt";

pub(super) fn find(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    let Some(manifest) = read(files, MANIFEST)? else {
        return Ok(None);
    };
    let incomplete = PlatformError::incomplete(MANIFEST);
    let pod = StaticPod::read(&manifest, "etcd").map_err(&incomplete)?;
    let settings = pod.settings();
    let endpoint = settings
        .endpoint()
        .ok_or_else(|| incomplete("the option --listen-client-urls of etcd is missing".into()))?;
    let on_node = |name: &str| settings.get(name).map(|path| pod.on_node(path));
    let ca = on_node("trusted-ca-file").unwrap_or_else(|| CA.into());
    let etcd_pki = parent(&ca);
    let pki = parent(etcd_pki);
    // The certificate of the API server is preferred. etcd's own certificate also works as a client certificate.
    let mut clients: Vec<_> = [
        format!("{pki}/apiserver-etcd-client"),
        format!("{etcd_pki}/healthcheck-client"),
    ]
    .map(|name| (format!("{name}.crt"), format!("{name}.key")))
    .into();
    clients.extend(on_node("cert-file").zip(on_node("key-file")));
    let member = Member {
        platform: Platform::Kubeadm,
        found_in: vec![MANIFEST.into()],
        endpoint,
        clients,
        data_dir: on_node("data-dir"),
        ca: Some(ca),
        resources: [CONFIG_DIR]
            .iter()
            .chain(&KUBELET)
            .map(ToString::to_string)
            .collect(),
        api_server: ApiServer::in_pod(files, API_SERVER_MANIFEST),
        files,
    };
    let mut found = member.complete()?;
    found.not_archived.extend(kubelet_missing(files));
    Ok(Some(found))
}

/// kubeadm always writes the kubelet's configuration. If it is not there, this process does not see it.
fn kubelet_missing(files: &dyn NodeFiles) -> Option<String> {
    let [config, ..] = KUBELET;
    let problem = "the kubelet's configuration and certificates: the file does not exist, or is not visible here";
    (!files.exists(config)).then(|| format!("{config}: {problem}"))
}
