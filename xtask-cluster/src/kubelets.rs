//! Clusters with kubelets, for `cargo xtask cluster`.

use crate::cluster::{Answer, Make, Place, Request, State, etcd_of, kubernetes_version, serve};
use crate::kit;
use anyhow::{Context, Result};
use std::os::unix::net::UnixListener;
use std::time::Instant;
use test_support::kubernetes::binaries;
use test_support::real_nodes::{ImageContent, KubeadmCluster, Options, write_image};

/// Holds a cluster with kubelets until it is told to let it go.
pub(crate) fn hold(place: &Place, make: &Make) -> Result<()> {
    let start = Instant::now();
    let version = kubernetes_version(make)?;
    let options = Options {
        kit: kit::provide(version, &etcd_of(make)?)?,
        nodes: make.nodes,
        filesystem: make.filesystem(),
    };
    let listener = UnixListener::bind(&place.socket)?;
    let cluster = KubeadmCluster::start(options, &|step| {
        println!("{:6.1} s  {step}", start.elapsed().as_secs_f64());
    });
    let cluster = cluster.map_err(anyhow::Error::msg)?;
    for (name, program) in make.images()? {
        let file = cluster.dir().join("image.tar");
        let content = ImageContent {
            entrypoint: Some("/etcd-lifeboat"),
            files: vec![(program, "etcd-lifeboat".to_string())],
            ..ImageContent::default()
        };
        write_image(&file, &name, &content)?;
        cluster
            .load_image(&file, &name)
            .map_err(anyhow::Error::msg)?;
    }
    let nodes = cluster.nodes().iter();
    let kubectl = binaries::find(version)
        .context("no Kubernetes")?
        .program("kubectl");
    let state = State {
        kubeconfig: cluster.dir().join("kubeconfig-node1"),
        kubectl,
        started_in_s: start.elapsed().as_secs_f64(),
        nodes: nodes
            .map(|node| {
                let etcd = format!("https://{}:2379", node.address());
                (node.name(), etcd, node.root())
            })
            .collect(),
        kubelets: true,
    };
    serve(place, &listener, &state, cluster, answer)
}

fn answer(cluster: &mut KubeadmCluster, request: Request) -> Answer {
    match request {
        Request::Down => Ok(String::new()),
        Request::Status => Ok(cluster.status()),
        Request::Fault { fault, part } => {
            cluster.fault(fault.fault(), &part).map(|()| String::new())
        }
        Request::ExpireWatches => Err("watches of a cluster with kubelets stay".into()),
        Request::Enter { node } => {
            let pid = cluster.node(&node)?.first_process();
            pid.map(|pid| pid.to_string())
                .ok_or_else(|| format!("{node} is switched off"))
        }
        Request::WayToApiServer => {
            let on = cluster.nodes().iter().find(|node| node.is_on());
            let (pid, kubeconfig) = cluster.way_to(on.ok_or("all nodes are switched off")?)?;
            Ok(format!("{pid} {}", kubeconfig.display()))
        }
        Request::Join => {
            let node = cluster.join()?;
            Ok(format!("{} is ready\n", node.name()))
        }
    }
}
