//! Groups at a [`Placement`], made by us or by systemd.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::dbus::Value;
use super::devices::{ALL, Kind, MAKE, Policy, READ, Rule, WRITE};
use super::group::{Creation, Group, Member, checked_path, is_denied, remove_checked};
use super::limits::Limits;
use super::memory::Amount;
use super::placement::{Placement, Unit};
use super::systemd::{Manager, Placeholder, Property, unit_properties};
use super::{CgroupError, Layout, cpu, file};

impl Group {
    /// Makes a group at its place, as [`Group::create`] does; a placement of systemd's
    /// starts the unit. Where the placement is `rootless` and no hierarchy can be written
    /// to, the group has no directories and can do nothing, which is no error.
    ///
    /// A scope of systemd's needs a process: until the returned group is dropped, a child
    /// of the caller is in it. The caller must be single-threaded then.
    ///
    /// # Errors
    /// As [`Group::create`], and [`CgroupError::Systemd`], [`CgroupError::SystemdJob`],
    /// [`CgroupError::Placeholder`]. A unit that was started is stopped again.
    pub fn create_at(layout: &Layout, placement: &Placement) -> Result<Group, CgroupError> {
        let Some(unit) = &placement.unit else {
            let creation = Creation {
                rootless: placement.rootless,
                shared: false,
            };
            return Group::create_with(layout, &placement.path, creation);
        };
        let path = checked_path(&placement.path)?;
        if layout.hierarchies().is_empty() {
            return Err(CgroupError::NoHierarchy);
        }
        let keeper = if unit.is_slice() {
            None
        } else {
            let placeholder = Placeholder::start().map_err(|source| CgroupError::Placeholder {
                unit: unit.name.clone(),
                source,
            })?;
            Some(Keeper {
                placeholder,
                pids: OnceLock::new(),
            })
        };
        let processes: Vec<_> = keeper
            .iter()
            .map(|keeper| keeper.placeholder.pid())
            .collect();
        let is_v2 = layout.v1_hierarchies().is_none();
        Manager::connect(unit.user)?
            .start(&unit.name, unit_properties(unit, is_v2, &processes)?)?;
        let creation = Creation {
            rootless: placement.rootless,
            shared: true,
        };
        match Group::create_with(layout, path, creation) {
            Ok(mut group) => {
                group.unit = Some(unit.clone());
                group.keeper = keeper;
                Ok(group)
            }
            Err(error) => {
                drop(keeper);
                let _ = stop(Some(unit));
                Err(error)
            }
        }
    }

    /// Opens a group that was made at its place.
    ///
    /// # Errors
    /// As [`Group::open`]; a `rootless` group that is nowhere is none.
    pub fn open_at(layout: &Layout, placement: &Placement) -> Result<Group, CgroupError> {
        match Group::open(layout, &placement.path) {
            Ok(mut group) => {
                group.rootless = placement.rootless;
                group.unit.clone_from(&placement.unit);
                Ok(group)
            }
            Err(CgroupError::NotFound { path }) if placement.rootless => {
                Ok(Group::without_directories(layout, &path))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a group inside this one, as `exec --cgroup PATH` names it, in all hierarchies
    /// that have it.
    ///
    /// # Errors
    /// [`CgroupError::InvalidPath`] for one that climbs, or as [`Group::open`].
    pub fn sub_group(&self, path: &str) -> Result<Group, CgroupError> {
        let relative = path.trim_matches('/');
        if relative.is_empty() {
            return Group::open(&self.layout, &self.path);
        }
        checked_path(relative)?;
        Group::open(&self.layout, &format!("{}/{relative}", self.path))
    }

    /// Whether the group has a directory in any hierarchy.
    #[must_use]
    pub fn has_directories(&self) -> bool {
        self.members().next().is_some()
    }

    /// Tells systemd of limits, before they are written.
    pub(super) fn tell_systemd(
        &self,
        limits: &Limits<'_>,
        policy: Option<&Policy>,
    ) -> Result<(), CgroupError> {
        let Some(unit) = &self.unit else {
            return Ok(());
        };
        let is_v2 = self.layout.v1_hierarchies().is_none();
        let mut properties = limit_properties(limits, is_v2);
        if let Some(policy) = policy {
            properties.extend(device_properties(policy));
        }
        if properties.is_empty() {
            return Ok(());
        }
        Manager::connect(unit.user)?.set_properties(&unit.name, properties)
    }
}

/// Removes the group of a placement as [`Group::remove`] does, without opening it first.
///
/// # Errors
/// [`CgroupError::InvalidPath`], [`CgroupError::Remove`], or [`CgroupError::Systemd`] after
/// the directories were tried.
pub fn remove_at(layout: &Layout, placement: &Placement) -> Result<(), CgroupError> {
    let path = checked_path(&placement.path)?;
    let stopped = stop(placement.unit.as_ref());
    let removed = remove_checked(layout, path);
    match removed {
        // What could not be made was never there.
        Err(CgroupError::Remove { failures })
            if placement.rootless && failures.iter().all(|(_, error)| is_denied(error)) => {}
        result => result?,
    }
    stopped
}

/// Stops the unit of a group, if it has one.
pub(super) fn stop(unit: Option<&Unit>) -> Result<(), CgroupError> {
    match unit {
        Some(unit) => Manager::connect(unit.user)?.stop(&unit.name),
        None => Ok(()),
    }
}

/// Keeps a scope alive, and gives the limit on tasks its real value at the end.
#[derive(Debug)]
pub(super) struct Keeper {
    placeholder: Placeholder,
    pids: OnceLock<(OwnedFd, String)>,
}

impl Keeper {
    /// Limits the tasks of the group to one more than asked for until the placeholder,
    /// which is one of them, is gone.
    pub(super) fn limit_pids(&self, member: &Member<'_>, limit: i64) -> Result<(), CgroupError> {
        const NAME: &str = "pids.max";
        member.write(NAME, &limit.saturating_add(1).to_string())?;
        let file = file::open_for_writing(member.directory, NAME)
            .map_err(|source| member.write_error(NAME, &limit.to_string(), source))?;
        // A second limit before the birth does not happen; the first would stay.
        let _ = self.pids.set((file, limit.to_string()));
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some((file, limit)) = self.pids.get() {
            let _ = file::write_to(std::os::fd::AsFd::as_fd(file), limit);
        }
    }
}

fn amount(amount: Amount) -> Value {
    Value::Uint64(match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::Unlimited => u64::MAX,
    })
}

/// What systemd can know of limits.
pub(super) fn limit_properties(limits: &Limits<'_>, is_v2: bool) -> Vec<Property> {
    let mut properties = Vec::new();
    let mut add = |name: &str, value: Value| properties.push((name.to_owned(), value));
    let memory = &limits.memory;
    if let Some(limit) = memory.limit {
        let name = if is_v2 { "MemoryMax" } else { "MemoryLimit" };
        add(name, amount(limit));
    }
    if is_v2 {
        if let Some(reservation) = memory.reservation {
            add("MemoryLow", amount(reservation));
        }
        if let Some(swap) = memory.swap_alone() {
            add("MemorySwapMax", amount(swap));
        }
    }
    if let Some(cpu) = limits.cpu {
        if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
            if is_v2 {
                add("CPUWeight", Value::Uint64(cpu::weight_of_shares(shares)));
            } else {
                add("CPUShares", Value::Uint64(shares));
            }
        }
        let period = cpu.period.filter(|period| *period != 0);
        if let Some(period) = period {
            add("CPUQuotaPeriodUSec", Value::Uint64(period));
        }
        if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
            let per_second = quota_per_second(quota, period.unwrap_or(100_000));
            add("CPUQuotaPerSecUSec", Value::Uint64(per_second));
        }
        if is_v2 {
            for (name, list) in [
                ("AllowedCPUs", &cpu.cpus),
                ("AllowedMemoryNodes", &cpu.mems),
            ] {
                if !list.is_empty() {
                    add(name, bit_mask(list));
                }
            }
        }
    }
    if let Some(pids) = limits.pids {
        let limit = u64::try_from(pids.limit).ok().filter(|limit| *limit > 0);
        add("TasksMax", Value::Uint64(limit.unwrap_or(u64::MAX)));
    }
    for (key, text) in limits.unified {
        let name = match key.as_str() {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpuset.cpus" | "cpuset.mems" if !text.trim().is_empty() => {
                let is_cpus = key == "cpuset.cpus";
                // The kernel will say what is wrong with a list that makes no sense.
                if cpu::check_list("unified", text.trim()).is_ok() {
                    let name = if is_cpus {
                        "AllowedCPUs"
                    } else {
                        "AllowedMemoryNodes"
                    };
                    add(name, bit_mask(text.trim()));
                }
                continue;
            }
            "cpu.max" => {
                let mut words = text.split_ascii_whitespace();
                let quota = words.next().unwrap_or("max");
                let period = words.next().map_or(Some(100_000), |word| word.parse().ok());
                if let Some(period) = period.filter(|period| *period > 0) {
                    let quota = quota.parse().unwrap_or(-1);
                    add("CPUQuotaPeriodUSec", Value::Uint64(period));
                    let per_second = quota_per_second(quota, period);
                    add("CPUQuotaPerSecUSec", Value::Uint64(per_second));
                }
                continue;
            }
            _ => continue,
        };
        let number = match text.trim() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        };
        if let Some(number) = number {
            add(name, Value::Uint64(number));
        }
    }
    properties
}

/// A quota in microseconds of processor time per second. systemd makes whole percents of
/// it, of which it must not lack a part: the next full 10 ms.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    const PERCENT: u64 = 10_000;
    match u64::try_from(quota) {
        Ok(quota) if quota > 0 => {
            let per_second = u128::from(quota) * 1_000_000 / u128::from(period.max(1));
            let per_second = u64::try_from(per_second).unwrap_or(u64::MAX - PERCENT);
            per_second.div_ceil(PERCENT).saturating_mul(PERCENT)
        }
        _ => u64::MAX,
    }
}

/// A list such as `0-2,7`, that was checked, as bits from the lowest byte on.
fn bit_mask(list: &str) -> Value {
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>())
        else {
            continue;
        };
        for bit in first..=last.min(first + 8192) {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    let bytes = bytes.into_iter().map(Value::Byte).collect();
    Value::Array("y".to_owned(), bytes)
}

/// The device rules as systemd's unit files have them. systemd writes its own whenever it
/// is reloaded, so without this a container on version 1 would then get every device.
pub(super) fn device_properties(policy: &Policy) -> Vec<Property> {
    let exceptions = policy.exceptions().ok().filter(|_| !policy.allow);
    let (word, exceptions) = match exceptions {
        Some(exceptions) => ("strict", exceptions),
        // It knows no exceptions from what is allowed.
        None => ("auto", Vec::new()),
    };
    let groups = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let allowed = exceptions.iter().map(|rule| {
        Value::Structure(vec![
            Value::String(device_name(rule, &groups)),
            Value::String(access_word(rule.access)),
        ])
    });
    let allowed = Value::Array("(ss)".to_owned(), allowed.collect());
    let empty = Value::Array("(ss)".to_owned(), Vec::new());
    vec![
        ("DevicePolicy".to_owned(), Value::string(word)),
        // Without an empty list first, the new one would be added to the old one.
        ("DeviceAllow".to_owned(), empty),
        ("DeviceAllow".to_owned(), allowed),
    ]
}

fn access_word(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')]
        .iter()
        .filter(|(bit, _)| access & ALL & bit != 0)
        .map(|(_, letter)| *letter)
        .collect()
}

/// A device as systemd names it: a node, a group of /proc/devices, or a whole type.
fn device_name(rule: &Rule, groups: &str) -> String {
    let (word, title) = match rule.kind {
        Kind::Block => ("block", "Block devices:"),
        Kind::Character => ("char", "Character devices:"),
    };
    match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
        (Some(major), None) => {
            let mut lines = groups.lines().skip_while(|line| *line != title).skip(1);
            let name = lines
                .by_ref()
                .take_while(|line| !line.is_empty())
                .find_map(|line| {
                    let (number, name) = line.trim().split_once(' ')?;
                    (number.parse() == Ok(major)).then(|| name.to_owned())
                });
            format!("{word}-{}", name.unwrap_or_else(|| major.to_string()))
        }
        (None, _) => format!("{word}-*"),
    }
}
