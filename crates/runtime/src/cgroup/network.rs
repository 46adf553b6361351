//! What the network knows a group's packets by, and limits on RDMA.

use std::collections::BTreeMap;

use super::CgroupError;
use super::apply::warn_of_version;
use super::group::Group;
use super::limits::invalid;
use crate::spec::{Network, Rdma};

impl Group {
    pub(super) fn apply_network(
        &self,
        network: &Network,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        let missing = |controller: &str, what: &str, warnings: &mut Vec<String>| {
            if self.layout.v1_hierarchies().is_some() {
                warnings.push(format!(
                    "the host has no {controller} controller: the {what} is ignored"
                ));
            } else {
                warn_of_version(what, warnings);
            }
        };
        if let Some(class_id) = network.class_id.filter(|class_id| *class_id != 0) {
            match self.v1_or_denied("net_cls")? {
                Some(member) => member.write("net_cls.classid", &class_id.to_string())?,
                None => missing("net_cls", "class of network packets", warnings),
            }
        }
        if network.priorities.is_empty() {
            return Ok(());
        }
        match self.v1_or_denied("net_prio")? {
            Some(member) => {
                // The file takes one interface a write.
                for priority in &network.priorities {
                    let line = format!("{} {}", priority.name, priority.priority);
                    member.write("net_prio.ifpriomap", &line)?;
                }
            }
            None => missing("net_prio", "priority of network packets", warnings),
        }
        Ok(())
    }

    pub(super) fn apply_rdma(
        &self,
        devices: &BTreeMap<String, Rdma>,
        warnings: &mut Vec<String>,
    ) -> Result<(), CgroupError> {
        if devices.is_empty() {
            return Ok(());
        }
        let Some(member) = self.controller("rdma", "rdma.max", "limits on RDMA", warnings)? else {
            return Ok(());
        };
        for (device, limits) in devices {
            if let Some(line) = rdma_line(device, limits) {
                member.write("rdma.max", &line)?;
            }
        }
        Ok(())
    }
}

fn rdma_line(device: &str, limits: &Rdma) -> Option<String> {
    let mut line = device.to_owned();
    for (name, limit) in [
        ("hca_handle", limits.hca_handles),
        ("hca_object", limits.hca_objects),
    ] {
        if let Some(limit) = limit {
            line.push_str(&format!(" {name}={limit}"));
        }
    }
    (line.len() > device.len()).then_some(line)
}

/// Checks the names of interfaces, which go into a line with a space behind them.
pub(super) fn check(network: &Network) -> Result<(), CgroupError> {
    for priority in &network.priorities {
        // IFNAMSIZ counts the zero at the end.
        if priority.name.len() > 15 || !is_word(&priority.name) {
            let name: String = priority.name.chars().take(64).collect();
            return Err(invalid("network interface", name, "it is no name of one"));
        }
    }
    Ok(())
}

/// Checks the names of devices.
pub(super) fn check_rdma(devices: &BTreeMap<String, Rdma>) -> Result<(), CgroupError> {
    for device in devices.keys() {
        // IB_DEVICE_NAME_MAX counts the zero at the end.
        if device.len() > 63 || !is_word(device) {
            let name: String = device.chars().take(64).collect();
            return Err(invalid("RDMA device", name, "it is no name of one"));
        }
    }
    Ok(())
}

fn is_word(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::InterfacePriority;

    #[test]
    fn rdma_limits_are_lines() {
        let line = |hca_handles, hca_objects| {
            let limits = Rdma {
                hca_handles,
                hca_objects,
            };
            rdma_line("mlx4_0", &limits)
        };
        assert_eq!(
            line(Some(2), Some(2000)).unwrap(),
            "mlx4_0 hca_handle=2 hca_object=2000"
        );
        assert_eq!(line(None, Some(1)).unwrap(), "mlx4_0 hca_object=1");
        assert_eq!(line(None, None), None);
    }

    #[test]
    fn names_cannot_change_the_line() {
        for (name, is_valid) in [
            ("eth0", true),
            ("", false),
            ("eth0 1\neth1", false),
            ("a/b", false),
            ("sixteen-letters-", false),
        ] {
            let network = Network {
                class_id: None,
                priorities: vec![InterfacePriority {
                    name: name.to_owned(),
                    priority: 1,
                }],
            };
            assert_eq!(check(&network).is_ok(), is_valid, "{name:?}");
        }
        let devices = BTreeMap::from([("mlx4_0 hca_object=max".to_owned(), Rdma::default())]);
        assert!(check_rdma(&devices).is_err());
    }
}
