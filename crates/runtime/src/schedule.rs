//! How a process is scheduled and gets its memory (runtime-spec, config.md, "Linux Process";
//! config-linux.md, "Personality" and "Memory policy").

use gantry_sys::schedule;
use rustix::thread::CpuSet;

use crate::error::{BirthError, Step};
use crate::spec::{
    CpuAffinity, IoPriority, Linux, MemoryPolicy, MemoryPolicyMode, Process, Scheduler,
    SchedulerPolicy,
};

/// Checks what the kernel would refuse without a word on which field is wrong.
///
/// # Errors
/// [`BirthError::Invalid`].
pub(crate) fn check(process: &Process, linux: Option<&Linux>) -> Result<(), BirthError> {
    if let Some(scheduler) = &process.scheduler {
        check_scheduler(scheduler)?;
    }
    if let Some(IoPriority { priority, .. }) = process.io_priority
        && !(0..=7).contains(&priority)
    {
        return Err(BirthError::Invalid(format!(
            "process.ioPriority.priority: {priority} is not between 0 and 7"
        )));
    }
    if let Some(asked) = &process.exec_cpu_affinity {
        Affinity::parse(asked)?;
    }
    if let Some(policy) = linux.and_then(|linux| linux.memory_policy.as_ref()) {
        nodes(policy)?;
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality.as_ref())
        && !personality.flags.is_empty()
    {
        return Err(BirthError::Invalid(
            "linux.personality.flags: there are no flags in this specification".into(),
        ));
    }
    Ok(())
}

fn check_scheduler(scheduler: &Scheduler) -> Result<(), BirthError> {
    use SchedulerPolicy::{SchedDeadline, SchedFifo, SchedRr};
    let invalid = |field: &str, reason: String| {
        Err(BirthError::Invalid(format!(
            "process.scheduler.{field}: {reason}"
        )))
    };
    let policy = scheduler.policy;
    let (nice, priority) = (scheduler.nice, scheduler.priority);
    if !(-20..=19).contains(&nice) {
        return invalid("nice", format!("{nice} is not between -20 and 19"));
    }
    let real_time = matches!(policy, SchedFifo | SchedRr);
    if priority != 0 && !real_time {
        return invalid("priority", format!("{policy:?} has none"));
    }
    if real_time && !(1..=99).contains(&priority) {
        return invalid("priority", format!("{priority} is not between 1 and 99"));
    }
    let times = [
        ("runtime", scheduler.runtime),
        ("deadline", scheduler.deadline),
        ("period", scheduler.period),
    ];
    for (field, value) in times {
        if value.is_some_and(|value| value != 0) && policy != SchedDeadline {
            return invalid(field, format!("{policy:?} has none"));
        }
    }
    Ok(())
}

/// Applies all of it to the calling process.
///
/// # Errors
/// [`BirthError`].
pub(crate) fn apply(process: &Process, linux: Option<&Linux>) -> Result<(), BirthError> {
    if let Some(policy) = linux.and_then(|linux| linux.memory_policy.as_ref()) {
        let mode = policy
            .flags
            .iter()
            .fold(policy.mode as u32, |mode, &flag| mode | flag as u32);
        schedule::set_memory_policy(mode, &nodes(policy)?)
            .step(|| "cannot set linux.memoryPolicy".into())?;
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality.as_ref()) {
        schedule::set_personality(personality.domain as u32)
            .step(|| "cannot set linux.personality".into())?;
    }
    if let Some(IoPriority { class, priority }) = process.io_priority {
        schedule::set_io_priority(class as u32, priority as u32)
            .step(|| "cannot set process.ioPriority".into())?;
    }
    if let Some(scheduler) = &process.scheduler {
        let attributes = schedule::Attributes {
            policy: scheduler.policy as u32,
            flags: scheduler
                .flags
                .iter()
                .fold(0, |flags, &flag| flags | flag as u64),
            nice: scheduler.nice,
            priority: scheduler.priority as u32,
            runtime: scheduler.runtime.unwrap_or_default(),
            deadline: scheduler.deadline.unwrap_or_default(),
            period: scheduler.period.unwrap_or_default(),
            ..schedule::Attributes::default()
        };
        schedule::set_scheduler(attributes).step(|| "cannot set process.scheduler".into())?;
    }
    Ok(())
}

fn nodes(policy: &MemoryPolicy) -> Result<Vec<u64>, BirthError> {
    let field = "linux.memoryPolicy.nodes";
    let list = numbers(field, &policy.nodes)?;
    let needed = !matches!(
        policy.mode,
        MemoryPolicyMode::MpolDefault
            | MemoryPolicyMode::MpolLocal
            | MemoryPolicyMode::MpolPreferred
    );
    if needed && list.is_empty() {
        return Err(BirthError::Invalid(format!(
            "{field}: {:?} needs nodes",
            policy.mode
        )));
    }
    let mut words = Vec::new();
    for number in list {
        let word = number / 64;
        if words.len() <= word {
            words.resize(word + 1, 0u64);
        }
        words[word] |= 1 << (number % 64);
    }
    Ok(words)
}

/// Processors of a process of `exec`.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    initial: Option<CpuSet>,
    last: Option<CpuSet>,
}

impl Affinity {
    /// Reads the lists.
    ///
    /// # Errors
    /// [`BirthError::Invalid`].
    pub(crate) fn parse(asked: &CpuAffinity) -> Result<Affinity, BirthError> {
        let set = |field: &str, list: &str| -> Result<Option<CpuSet>, BirthError> {
            let numbers = numbers(&format!("process.execCPUAffinity.{field}"), list)?;
            let mut set = CpuSet::new();
            for &number in &numbers {
                set.set(number);
            }
            Ok((!numbers.is_empty()).then_some(set))
        };
        Ok(Affinity {
            initial: set("initial", &asked.initial)?,
            last: set("final", &asked.last)?,
        })
    }

    /// Whether there is something to set before the group is joined.
    pub(crate) fn has_initial(&self) -> bool {
        self.initial.is_some()
    }

    /// Before the process joins the container's control group.
    ///
    /// # Errors
    /// [`BirthError::Step`].
    pub(crate) fn set_initial(&self) -> Result<(), BirthError> {
        Affinity::set(&self.initial, "initial")
    }

    /// After that.
    ///
    /// # Errors
    /// [`BirthError::Step`].
    pub(crate) fn set_last(&self) -> Result<(), BirthError> {
        Affinity::set(&self.last, "final")
    }

    fn set(set: &Option<CpuSet>, field: &str) -> Result<(), BirthError> {
        match set {
            None => Ok(()),
            Some(set) => rustix::thread::sched_setaffinity(None, set)
                .step(|| format!("cannot set process.execCPUAffinity.{field}")),
        }
    }
}

/// Reads a list such as `0-3,7`; no number reaches 1024, the size of the kernel's usual sets
/// (CVE-2018-20699: a list that was not bounded).
fn numbers(field: &str, list: &str) -> Result<Vec<usize>, BirthError> {
    let invalid = || BirthError::Invalid(format!("{field}: {list:?} is no list such as 0-3,7"));
    let number = |text: &str| -> Result<usize, BirthError> {
        match text.trim().parse() {
            Ok(number) if number < CpuSet::MAX_CPU => Ok(number),
            _ => Err(invalid()),
        }
    };
    let mut numbers = Vec::new();
    for part in list.split(',') {
        match part.trim() {
            "" => {}
            part => {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(invalid());
                }
                numbers.extend(first..=last);
                if numbers.len() > 4 * CpuSet::MAX_CPU {
                    return Err(invalid());
                }
            }
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_bounded() {
        for (list, expected) in [
            ("", vec![]),
            ("0", vec![0]),
            (" 0-2, 7 ,", vec![0, 1, 2, 7]),
        ] {
            assert_eq!(numbers("f", list).unwrap(), expected, "{list:?}");
        }
        // A07, CVE-2018-20699.
        let long = "0-1023,".repeat(1000);
        for list in ["0-4294967295", "1024", "3-1", "a", "-1", "1-", &*long] {
            let error = numbers("the.field", list).unwrap_err().to_string();
            assert!(error.starts_with("the.field: "), "{error}");
        }
    }
}
