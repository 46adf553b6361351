//! What a runtime reads: `config.json` and `process.json` out of the engine's orders.

use std::path::Path;

use gantry_runtime::spec::{Linux, Namespace, NamespaceKind, Process, Root, Spec};
use gantry_runtime::user::Ids;

use crate::order::BirthOrder;

/// Option of a volume's mount that no other runtime knows: the helper itself fills the
/// volume.
pub(super) const COPY_UP: &str = "copyup";

/// The configuration of a container.
///
/// `ids` is its user, found in its own files; `root` where its root is mounted; `network`
/// a network namespace to join.
pub(super) fn config(order: &BirthOrder, ids: &Ids, root: &Path, network: Option<&Path>) -> Spec {
    let mut spec = order.spec.clone();
    // All that is in there is in 1.0 too, and crun before 1.9 refuses any other version.
    spec.oci_version = "1.0.2".into();
    if let Some(own) = &mut spec.process {
        *own = process(own, ids);
    }
    spec.root = Some(Root {
        path: root.to_string_lossy().into_owned(),
        readonly: spec.root.as_ref().is_some_and(|root| root.readonly),
    });
    for mount in &mut spec.mounts {
        mount.options.retain(|option| option != COPY_UP);
    }
    let linux = spec.linux.get_or_insert_with(Linux::default);
    // Without the slash it would be looked for below the runtime's own group.
    linux.cgroups_path = format!("/{}", order.cgroup.trim_start_matches('/'));
    if let Some(path) = network {
        let is_network = |namespace: &Namespace| namespace.kind == NamespaceKind::Network;
        linux.namespaces.retain(|namespace| !is_network(namespace));
        linux.namespaces.push(Namespace {
            kind: NamespaceKind::Network,
            path: Some(path.to_string_lossy().into_owned()),
        });
    }
    spec
}

/// A process with its user in numbers, as a runtime wants it.
pub(super) fn process(process: &Process, ids: &Ids) -> Process {
    let mut process = process.clone();
    process.user.uid = ids.uid;
    process.user.gid = ids.gid;
    process.user.additional_gids.clone_from(&ids.groups);
    if !process
        .env
        .iter()
        .any(|variable| variable.starts_with("HOME="))
    {
        let home = ids.home.as_deref().filter(|home| !home.is_empty());
        process.env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    // Root's capabilities are root's (CVE-2016-8867, CVE-2018-10856).
    if let (Some(sets), true) = (&mut process.capabilities, ids.uid != 0) {
        sets.effective.clear();
        sets.permitted.clear();
        sets.inheritable.clear();
        sets.ambient.clear();
    }
    process
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_runtime::spec::{Capabilities, Mount};

    fn order() -> BirthOrder {
        let capabilities = Capabilities {
            bounding: vec!["CAP_CHOWN".into()],
            effective: vec!["CAP_CHOWN".into()],
            permitted: vec!["CAP_CHOWN".into()],
            ..Capabilities::default()
        };
        let mut order = BirthOrder {
            cgroup: "gantry-1/abc".into(),
            ..BirthOrder::default()
        };
        order.spec.process = Some(Process {
            args: vec!["true".into()],
            capabilities: Some(capabilities),
            ..Process::default()
        });
        order.spec.root = Some(Root {
            path: String::new(),
            readonly: true,
        });
        order.spec.mounts = vec![Mount {
            destination: "/v".into(),
            options: vec!["bind".into(), COPY_UP.into()],
            ..Mount::default()
        }];
        let kinds = [NamespaceKind::Pid, NamespaceKind::Network];
        order.spec.linux = Some(Linux {
            namespaces: kinds.map(|kind| Namespace { kind, path: None }).to_vec(),
            ..Linux::default()
        });
        order
    }

    #[test]
    fn a_configuration_is_complete_for_another_runtime() {
        let ids = Ids {
            uid: 1000,
            gid: 1001,
            groups: vec![1001, 50],
            home: Some("/home/app".into()),
        };
        let spec = config(
            &order(),
            &ids,
            Path::new("/run/x/rootfs"),
            Some(Path::new("/run/x/netns")),
        );
        let text = serde_json::to_value(&spec).unwrap();
        assert_eq!(text["root"]["path"], "/run/x/rootfs");
        assert_eq!(text["root"]["readonly"], true);
        assert_eq!(text["linux"]["cgroupsPath"], "/gantry-1/abc");
        assert_eq!(text["process"]["user"]["uid"], 1000);
        assert_eq!(text["process"]["user"]["additionalGids"][1], 50);
        assert_eq!(text["process"]["env"][0], "HOME=/home/app");
        // The bounding set stays: a set-id program of the image may still gain from it.
        assert_eq!(text["process"]["capabilities"]["bounding"][0], "CAP_CHOWN");
        assert_eq!(
            text["process"]["capabilities"]["effective"]
                .as_array()
                .map_or(0, Vec::len),
            0
        );
        assert_eq!(text["mounts"][0]["options"], serde_json::json!(["bind"]));
        let network = text["linux"]["namespaces"].as_array().unwrap();
        assert_eq!(network.len(), 2);
        assert_eq!(network[1]["path"], "/run/x/netns");
    }

    #[test]
    fn on_the_hosts_network_none_is_named() {
        let mut host = order();
        host.spec.linux.as_mut().unwrap().namespaces.pop();
        let spec = config(&host, &Ids::default(), Path::new("/r"), None);
        let kinds = spec.linux.unwrap().namespaces;
        assert_eq!(kinds.len(), 1);
        let process = spec.process.unwrap();
        assert_eq!(process.env, ["HOME=/"]);
        assert_eq!(process.capabilities.unwrap().effective, ["CAP_CHOWN"]);
    }
}
