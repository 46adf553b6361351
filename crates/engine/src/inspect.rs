//! Objects in Docker's JSON form.

use gantry_supervisor::log::format_time;
use serde_json::{Map, Value, json};

use crate::config::{ContainerConfig, ContainerPort, MountSource, NetworkMode, SeccompChoice};
use crate::error::Error;
use crate::list::{Life, network_name};
use crate::store::ContainerRow;
use crate::{Engine, order, runtimes};

/// What Docker shows for a time that never was.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

impl Engine {
    /// A container in Docker's form (`GET /containers/{id}/json`).
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Store`].
    pub fn inspect(&self, name: &str) -> Result<Value, Error> {
        let row = self.find(name)?;
        let config = self.config_of(&row)?;
        let state = self.run_state(&row.id);
        // An end that was settled meanwhile is in the row, which has to be read after the
        // record.
        let row = if state.is_none() {
            self.find(&row.id)?
        } else {
            row
        };
        let life = Life::of_row(&row, state.as_ref());
        let words: Vec<&String> = config.entrypoint.iter().chain(&config.cmd).collect();
        let volumes = self.volumes_of(&row, &config)?;
        let run = self.roots.container_run(&row.id);
        Ok(json!({
            "Id": row.id,
            "Created": format_time(row.created_at),
            "Path": words.first(),
            "Args": words.get(1..).unwrap_or_default(),
            "State": state_json(&life),
            "Image": row.image_id,
            "ResolvConfPath": run.join("resolv.conf"),
            "HostnamePath": run.join("hostname"),
            "HostsPath": run.join("hosts"),
            "LogPath": self.roots.log(&row.id),
            "Name": format!("/{}", row.name),
            "RestartCount": 0,
            "Driver": "overlayfs",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": null,
            "HostConfig": host_config(&config),
            "GraphDriver": {"Name": "overlayfs", "Data": {"UpperDir": self.roots.container_data(&row.id).join("upper")}},
            "Mounts": self.mounts_json(&config, &volumes),
            "Config": config_json(&row, &config),
            "NetworkSettings": self.network_json(&row, &config, &life)?,
        }))
    }

    fn mounts_json(&self, config: &ContainerConfig, volumes: &[String]) -> Vec<Value> {
        let mut names = volumes.iter();
        let mut mounts = Vec::new();
        for mount in &config.mounts {
            let propagation = if mount.propagation.is_empty() {
                "rprivate"
            } else {
                &mount.propagation
            };
            match &mount.source {
                MountSource::Bind { path, .. } => mounts.push(json!({
                    "Type": "bind", "Source": path, "Destination": mount.target, "Mode": "",
                    "RW": !mount.read_only, "Propagation": propagation,
                })),
                MountSource::Volume { .. } => {
                    let name = names.next().cloned().unwrap_or_default();
                    mounts.push(json!({
                        "Type": "volume", "Name": name, "Source": self.roots.volume(&name).join("_data"),
                        "Destination": mount.target, "Driver": "local", "Mode": "z", "RW": !mount.read_only, "Propagation": "",
                    }));
                }
                MountSource::Tmpfs { .. } => mounts.push(json!({
                    "Type": "tmpfs", "Source": "", "Destination": mount.target, "Mode": "", "RW": !mount.read_only, "Propagation": "",
                })),
            }
        }
        mounts
    }

    fn network_json(
        &self,
        row: &ContainerRow,
        config: &ContainerConfig,
        life: &Life,
    ) -> Result<Value, Error> {
        let mut ports = Map::new();
        for port in &life.ports {
            let bindings = match port.host_ip {
                Some(address) => vec![
                    json!({"HostIp": address.to_string(), "HostPort": port.host_port.to_string()}),
                ],
                None => vec![
                    json!({"HostIp": "0.0.0.0", "HostPort": port.host_port.to_string()}),
                    json!({"HostIp": "::", "HostPort": port.host_port.to_string()}),
                ],
            };
            let key = format!("{}/{}", port.container_port, port.protocol);
            match ports.get_mut(&key).and_then(Value::as_array_mut) {
                Some(known) => known.extend(bindings),
                None => drop(ports.insert(key, Value::Array(bindings))),
            }
        }
        if life.state == "running" {
            for port in &config.exposed_ports {
                ports.entry(port_text(*port)).or_insert(Value::Null);
            }
        }
        let sandbox = self.sandbox_of(&row.id);
        let mut networks = Map::new();
        let mut first = Value::Null;
        for (name, endpoint) in self.endpoints_json(row, config, life)? {
            if name == crate::networks::DEFAULT {
                first = endpoint.clone();
            }
            networks.insert(name, endpoint);
        }
        // As in Docker, what stands outside of the list is of the default network only.
        let default = |field: &str| first.get(field).cloned().unwrap_or_else(|| "".into());
        Ok(json!({
            "Bridge": "",
            "SandboxID": if life.state == "running" { sandbox.clone() } else { String::new() },
            "SandboxKey": if life.pid == 0 { String::new() } else { format!("/proc/{}/ns/net", life.pid) },
            "Ports": ports,
            "EndpointID": default("EndpointID"), "Gateway": default("Gateway"), "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0, "IPAddress": default("IPAddress"),
            "IPPrefixLen": first.get("IPPrefixLen").cloned().unwrap_or_else(|| 0.into()),
            "IPv6Gateway": "", "MacAddress": default("MacAddress"),
            "Networks": networks,
        }))
    }

    /// A container's places on networks, by the networks' names.
    fn endpoints_json(
        &self,
        row: &ContainerRow,
        config: &ContainerConfig,
        life: &Life,
    ) -> Result<Vec<(String, Value)>, Error> {
        let empty = |id: &str| {
            json!({
                "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null, "GwPriority": 0,
                "NetworkID": id, "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0,
                "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
            })
        };
        match &config.network {
            NetworkMode::Container(_) => return Ok(Vec::new()),
            NetworkMode::Host | NetworkMode::None => {
                let name = network_name(&config.network);
                let mut endpoint = empty(&self.predefined_id(&name));
                if life.state == "running" {
                    endpoint["EndpointID"] = self.predefined_id(&row.id).into();
                }
                return Ok(vec![(name, endpoint)]);
            }
            NetworkMode::Bridge | NetworkMode::Network(_) => {}
        }
        let places = match self.places(&row.id, config) {
            Ok(places) => places,
            // Removed since the container was made.
            Err(Error::NoSuchNetwork { name }) => return Ok(vec![(name, empty(""))]),
            Err(error) => return Err(error),
        };
        let mut endpoints = Vec::with_capacity(places.len());
        for place in places {
            let (net, wish) = (&place.net, &place.wish);
            let mut endpoint = empty(&net.id);
            if let Some(address) = wish.ipv4 {
                endpoint["IPAMConfig"] = json!({"IPv4Address": address.to_string()});
            }
            if !wish.links.is_empty() {
                endpoint["Links"] = json!(wish.links);
            }
            if !wish.driver_options.is_empty() {
                endpoint["DriverOpts"] = json!(wish.driver_options);
            }
            endpoint["GwPriority"] = wish.gw_priority.into();
            if net.has_names() {
                if !wish.aliases.is_empty() {
                    endpoint["Aliases"] = json!(wish.aliases);
                }
                endpoint["DNSNames"] =
                    json!(crate::networks::names_of(&row.id, &row.name, config, wish));
            }
            // Not within the condition: the store would stay borrowed in the body.
            let leased = self.store()?.leased(&net.name, &row.id)?;
            if let Some(address) = leased.filter(|_| life.state == "running") {
                let address = std::net::Ipv4Addr::from(address);
                endpoint["IPAddress"] = address.to_string().into();
                endpoint["IPPrefixLen"] = net.subnet.prefix_length().into();
                endpoint["Gateway"] = net.gateway.to_string().into();
                endpoint["MacAddress"] = self.mac_of(&net.name, &row.id, address)?.into();
                endpoint["EndpointID"] = crate::networks::endpoint_id(&net.id, &row.id).into();
            }
            endpoints.push((net.name.clone(), endpoint));
        }
        Ok(endpoints)
    }
}

fn port_text(port: ContainerPort) -> String {
    format!("{}/{}", port.port, port.protocol)
}

fn state_json(life: &Life) -> Value {
    let time = |nanoseconds: i64| {
        if nanoseconds == 0 {
            NEVER.to_owned()
        } else {
            format_time(nanoseconds)
        }
    };
    json!({
        "Status": life.state, "Running": life.state == "running", "Paused": false, "Restarting": false,
        "OOMKilled": life.oom_killed, "Dead": false, "Pid": life.pid, "ExitCode": life.exit_code, "Error": life.error,
        "StartedAt": time(life.started_at), "FinishedAt": time(life.finished_at),
    })
}

fn config_json(row: &ContainerRow, config: &ContainerConfig) -> Value {
    let exposed: Map<String, Value> = config
        .exposed_ports
        .iter()
        .map(|port| (port_text(*port), json!({})))
        .collect();
    let volumes: Map<String, Value> = config
        .mounts
        .iter()
        .filter(|mount| matches!(mount.source, MountSource::Volume { name: None, .. }))
        .map(|mount| (mount.target.clone(), json!({})))
        .collect();
    json!({
        "Hostname": order::hostname(&row.id, config), "Domainname": config.domainname, "User": config.user,
        "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
        "ExposedPorts": exposed, "Tty": config.tty, "OpenStdin": config.open_stdin, "StdinOnce": config.stdin_once,
        "Env": config.env, "Cmd": config.cmd, "Image": config.image, "Volumes": volumes,
        "WorkingDir": config.working_dir,
        "Entrypoint": if config.entrypoint.is_empty() { Value::Null } else { json!(config.entrypoint) },
        "OnBuild": null, "Labels": config.labels,
        "StopSignal": if config.stop_signal.is_empty() { "SIGTERM" } else { &config.stop_signal },
        "StopTimeout": config.stop_timeout,
    })
}

fn host_config(config: &ContainerConfig) -> Value {
    let mut binds = Vec::new();
    let mut tmpfs = Map::new();
    for mount in &config.mounts {
        let mode = if mount.read_only { ":ro" } else { "" };
        match &mount.source {
            MountSource::Bind { path, .. } => binds.push(format!("{path}:{}{mode}", mount.target)),
            MountSource::Volume {
                name: Some(name), ..
            } => binds.push(format!("{name}:{}{mode}", mount.target)),
            MountSource::Volume { .. } => {}
            MountSource::Tmpfs { .. } => drop(tmpfs.insert(mount.target.clone(), "".into())),
        }
    }
    let mut bindings = Map::new();
    for port in &config.ports {
        let host_port = if port.host_port == 0 {
            String::new()
        } else {
            port.host_port.to_string()
        };
        let host_ip = port
            .host_ip
            .map(|address| address.to_string())
            .unwrap_or_default();
        let entry = bindings
            .entry(port_text(port.container))
            .or_insert_with(|| json!([]));
        if let Some(list) = entry.as_array_mut() {
            list.push(json!({"HostIp": host_ip, "HostPort": host_port}));
        }
    }
    let mut security = Vec::new();
    if config.security.no_new_privileges {
        security.push("no-new-privileges".to_owned());
    }
    match &config.security.seccomp {
        SeccompChoice::Default => {}
        SeccompChoice::Unconfined => security.push("seccomp=unconfined".into()),
        SeccompChoice::Profile(text) => security.push(format!("seccomp={text}")),
    }
    let resources = &config.resources;
    let ulimits: Vec<Value> = config
        .ulimits
        .iter()
        .map(|ulimit| json!({"Name": ulimit.name, "Soft": ulimit.soft, "Hard": ulimit.hard}))
        .collect();
    let hosts: Vec<String> = config
        .extra_hosts
        .iter()
        .map(|(name, address)| format!("{name}:{address}"))
        .collect();
    let mut value = json!({
        "Binds": if binds.is_empty() { Value::Null } else { json!(binds) },
        "ContainerIDFile": "",
        "LogConfig": {"Type": "json-file", "Config": config.log_options},
        "NetworkMode": network_name(&config.network),
        "PortBindings": bindings, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": config.auto_remove, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0],
        "CapAdd": if config.security.cap_add.is_empty() { Value::Null } else { json!(config.security.cap_add) },
        "CapDrop": if config.security.cap_drop.is_empty() { Value::Null } else { json!(config.security.cap_drop) },
        "CgroupnsMode": "private", "Dns": config.dns, "DnsOptions": config.dns_options, "DnsSearch": config.dns_search,
        "ExtraHosts": if hosts.is_empty() { Value::Null } else { json!(hosts) },
        "GroupAdd": null, "IpcMode": "private", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "",
        "Privileged": config.security.privileged, "PublishAllPorts": config.publish_all,
        "ReadonlyRootfs": config.security.read_only,
        "SecurityOpt": if security.is_empty() { Value::Null } else { json!(security) },
        "UTSMode": "", "UsernsMode": "",
        "ShmSize": if config.shm_size == 0 { 64 << 20 } else { config.shm_size },
        "Runtime": runtimes::shown_name(&config.runtime), "Isolation": "", "Init": config.init,
    });
    let more = json!({
        "CpuShares": resources.cpu_shares, "Memory": resources.memory, "NanoCpus": resources.nano_cpus,
        "CgroupParent": "", "BlkioWeight": 0, "CpuPeriod": 0, "CpuQuota": 0, "CpusetCpus": resources.cpuset_cpus,
        "CpusetMems": resources.cpuset_mems, "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null,
        "MemoryReservation": resources.memory_reservation, "MemorySwap": resources.memory_swap, "MemorySwappiness": null,
        "OomKillDisable": null, "PidsLimit": if resources.pids_limit == 0 { Value::Null } else { json!(resources.pids_limit) },
        "Ulimits": ulimits, "Sysctls": config.sysctls, "Tmpfs": tmpfs,
    });
    if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
        value.extend(more.clone());
    }
    value
}
