//! The static pod of OpenShift's etcd operator, also on a single node (openshift/cluster-etcd-operator:
//! `bindata/etcd/pod.gotpl.yaml`, `pkg/etcdenvvar/etcd_env.go`, `bindata/etcd/cluster-backup.sh`).
//!
//! The container's environment has the client's certificate, as paths of the container. The archive has the
//! same content as upstream's own backup, so that `cluster-restore.sh` accepts it: the directories of the running
//! revisions, relative to `/etc/kubernetes`, and nothing else below `static-pod-resources`, because that script
//! would overwrite newer certificates with it. The revision of etcd contains all of etcd's certificates.

use super::api_server::ApiServer;
use super::found::{Found, Member, Platform, PlatformError, read};
use super::node_files::NodeFiles;
use super::settings::{Settings, local_url};
use super::static_pod::StaticPod;

const CONFIG_DIR: &str = "/etc/kubernetes";
const MANIFEST: &str = "/etc/kubernetes/manifests/etcd-pod.yaml";
const RESOURCES: &str = "/etc/kubernetes/static-pod-resources";
/// The configuration of encryption, if it is on, below the directory of the API server's revision.
const ENCRYPTION: &str = "secrets/encryption-config/encryption-config";
const API_SERVER: &str = "kube-apiserver";
const COMPONENTS: [&str; 4] = [
    API_SERVER,
    "kube-controller-manager",
    "kube-scheduler",
    "etcd",
];

pub(super) fn find(files: &dyn NodeFiles) -> Result<Option<Found>, PlatformError> {
    let Some(manifest) = read(files, MANIFEST)? else {
        return Ok(None);
    };
    let incomplete = PlatformError::incomplete(MANIFEST);
    let pod = StaticPod::read(&manifest, "etcd").map_err(&incomplete)?;
    let variable = |name: &str| {
        pod.variable(name)
            .ok_or_else(|| incomplete(format!("the container etcd has no variable {name}")))
    };
    let certificate = |name: &str| variable(name).map(|path| pod.on_node(path));
    let member = Member {
        platform: Platform::OpenShift,
        found_in: vec![MANIFEST.into()],
        endpoint: endpoint(&pod).ok_or_else(|| {
            incomplete("the option --listen-client-urls of etcd is missing".into())
        })?,
        ca: Some(certificate("ETCDCTL_CACERT")?),
        clients: vec![(certificate("ETCDCTL_CERT")?, certificate("ETCDCTL_KEY")?)],
        data_dir: Some(pod.on_node(variable("ETCD_DATA_DIR")?)),
        resources: Vec::new(),
        api_server: ApiServer::default(),
        files,
    };
    let mut found = member.complete()?;
    found.archive_root = CONFIG_DIR.into();
    for component in COMPONENTS {
        match revision_dir(files, component)? {
            Some(dir) => {
                if component == API_SERVER {
                    found.read_encryption(&format!("{dir}/{ENCRYPTION}"), files);
                }
                found.resources.push(dir);
            }
            None => found.missing.push(format!(
                "{component} is missing from the archive: {RESOURCES}/{component}-pod-N does not exist"
            )),
        }
    }
    Ok(Some(found))
}

/// A script starts etcd and contains its flags. etcd listens on all addresses. In the oldest versions the certificate
/// contains the name `localhost`, but not its address.
fn endpoint(pod: &StaticPod) -> Option<String> {
    let script = pod.words().join(" ");
    let words: Vec<_> = script.split_whitespace().map(String::from).collect();
    let settings = Settings::from_words(&words);
    let url = local_url(settings.get("listen-client-urls")?)?;
    Some(url.replace("://127.0.0.1:", "://localhost:"))
}

/// The directory of the running revision, as the component's manifest names it. After a restore etcd's manifest names
/// none, and the newest directory is used.
fn revision_dir(files: &dyn NodeFiles, component: &str) -> Result<Option<String>, PlatformError> {
    let manifest = read(
        files,
        &format!("{CONFIG_DIR}/manifests/{component}-pod.yaml"),
    )?;
    let prefix = format!("{component}-pod-");
    let named = manifest.and_then(|text| {
        let (_, rest) = text.split_once(&format!("{RESOURCES}/{prefix}"))?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest.get(..digits).map(|number| format!("{prefix}{number}"))
    });
    let existing = files.names(RESOURCES);
    let newest = existing
        .iter()
        .filter_map(|name| Some((name.strip_prefix(&prefix)?.parse::<u64>().ok()?, name)))
        .max();
    Ok(named
        .filter(|name| existing.contains(name))
        .or(newest.map(|(_, name)| name.clone()))
        .map(|name| format!("{RESOURCES}/{name}")))
}
