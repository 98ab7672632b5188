//! The static pod that kubeadm writes (kubernetes/kubernetes: `cmd/kubeadm/app/phases/etcd/local.go`), also
//! if kubespray uses kubeadm, which then has its certificates in another directory.

use super::found::{Found, Member, NodeFiles, Platform, PlatformError, parent, read};
use super::static_pod::EtcdPod;

const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";
const CONFIG_DIR: &str = "/etc/kubernetes";
const CA: &str = "/etc/kubernetes/pki/etcd/ca.crt";

pub(super) fn find(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    let Some(manifest) = read(files, MANIFEST)? else {
        return Ok(None);
    };
    let incomplete = PlatformError::incomplete(MANIFEST);
    let pod = EtcdPod::read(&manifest).map_err(&incomplete)?;
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
        resources: vec![CONFIG_DIR.into()],
        files,
    };
    member.complete().map(Some)
}
