//! kOps, whose `etcd-manager` runs an etcd for everything and one for events (kubernetes/kops:
//! `nodeup/pkg/model/kube_apiserver.go`, `docs/operations/etcd_administration.md`).
//!
//! Only the flags of the API server say where they are. Where `etcd-manager` has the data differs by cloud, so the data directory is
//! unknown.

use super::api_server::ApiServer;
use super::found::{Found, Member, Platform, PlatformError, read};
use super::node_files::NodeFiles;
use super::other_etcd::servers_of;
use super::settings::local_url;
use super::static_pod::StaticPod;

const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.manifest";
const RESOURCES: [&str; 2] = ["/etc/kubernetes", "/srv/kubernetes"];

pub(super) fn find(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    let Some(manifest) = read(files, MANIFEST)? else {
        return Ok(None);
    };
    let incomplete = PlatformError::incomplete(MANIFEST);
    let pod = StaticPod::read(&manifest, "kube-apiserver").map_err(&incomplete)?;
    let flags = pod.settings();
    let servers = flags.get("etcd-servers").map_or("", String::as_str);
    let endpoint = local_url(&servers_of(servers, ',').join(",")).ok_or_else(|| {
        incomplete("the option --etcd-servers of kube-apiserver is missing".into())
    })?;
    let file = |name: &str| flags.get(name).map(|path| pod.on_node(path));
    let member = Member {
        platform: Platform::Kops,
        found_in: vec![MANIFEST.into()],
        endpoint,
        ca: file("etcd-cafile"),
        clients: file("etcd-certfile")
            .zip(file("etcd-keyfile"))
            .into_iter()
            .collect(),
        data_dir: None,
        resources: RESOURCES.map(String::from).into(),
        api_server: ApiServer::in_pod(files, MANIFEST),
        files,
    };
    member.complete().map(Some)
}
