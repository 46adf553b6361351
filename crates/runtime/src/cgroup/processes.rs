//! Processes of a group: joining, listing, stopping and killing them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use super::group::{Group, MAX_DEPTH, Member, children, open_directory};
use super::{CgroupError, file};

/// How long a group is given to stop all its processes.
const FREEZE_PATIENCE: Duration = Duration::from_secs(2);

/// Rounds of killing; each one finds only what was born during the one before.
const KILL_ROUNDS: usize = 1000;

impl Group {
    /// The files by which a process joins the version 1 hierarchies: it writes "0" to each.
    ///
    /// They are the `tasks` files, which move the one thread that writes. Unlike
    /// `cgroup.procs` they need no lock over all threads of the host, whose taking waits
    /// for an RCU grace period: nine hierarchies took 0.07 ms through `tasks` and 10.9 ms
    /// through `cgroup.procs` (Linux 6.18, 2 processors, a start every 60 ms), whoever
    /// wrote. The process must have a single thread.
    ///
    /// # Errors
    /// [`CgroupError::Open`].
    pub fn join_files(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.members()
            .filter(|member| !member.hierarchy.is_v2())
            .map(|member| open_join_file(&member, "tasks"))
            .collect()
    }

    /// The directory in version 2, for `clone3` with `CLONE_INTO_CGROUP` (Linux 5.7),
    /// which costs next to nothing.
    #[must_use]
    pub fn v2_directory(&self) -> Option<BorrowedFd<'_>> {
        self.v2().map(|member| member.directory)
    }

    /// The file by which a process joins version 2 without `CLONE_INTO_CGROUP`, with the
    /// cost that [`Group::join_files`] tells of.
    ///
    /// # Errors
    /// [`CgroupError::Open`].
    pub fn v2_join_file(&self) -> Result<Option<OwnedFd>, CgroupError> {
        self.v2()
            .map(|member| open_join_file(&member, "cgroup.procs"))
            .transpose()
    }

    /// Ids of the processes in the group and in groups inside it, in the PID namespace of
    /// the caller. Zombies are not among them.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        match self.tracking() {
            Some(member) => processes_below(&member),
            None => Ok(Vec::new()),
        }
    }

    /// Sends `SIGKILL` to every process of the group and of groups inside it, children
    /// born meanwhile included, and returns without waiting for their end. Frozen groups
    /// are thawed, since only then their processes die. The caller itself is spared.
    ///
    /// # Errors
    /// [`CgroupError`]; [`CgroupError::Timeout`] if new processes keep appearing.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(member) = self.v2() {
            match file::write(member.directory, "cgroup.kill", "1") {
                Ok(()) => {}
                // Linux 5.14.
                Err(error) if file::is(&error, Errno::NOENT) => {}
                Err(error) => return Err(member.write_error("cgroup.kill", "1", error)),
            }
        }
        // Beside version 1, a process may be in that alone.
        if self.processes()?.is_empty() {
            return Ok(());
        }
        // What is frozen or freezing has no children.
        let freezer = self.v1("freezer");
        if let Some(freezer) = &freezer {
            let _ = freezer.write("freezer.state", "FROZEN");
        }
        let result = self.kill_each();
        if let Some(freezer) = &freezer {
            freezer.write("freezer.state", "THAWED")?;
        } else if let Some(member) = self.v2() {
            let _ = member.write("cgroup.freeze", "0");
        }
        result
    }

    /// Sends a signal to every process of the group and of groups inside it that is there
    /// now; the caller itself is spared. [`Group::kill`] is for `SIGKILL`, which must miss
    /// nobody.
    ///
    /// # Errors
    /// [`CgroupError::Read`] or [`CgroupError::Kill`].
    pub fn signal(&self, signal: Signal) -> Result<(), CgroupError> {
        let own = getpid();
        let opened = self.processes()?.into_iter().filter(|pid| *pid != own);
        let opened: Vec<(Pid, OwnedFd)> = opened
            .filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)))
            .collect();
        // As in kill_each: the second list confirms whom the pidfds hold.
        let confirmed = self.processes()?;
        for (pid, pidfd) in opened.iter().filter(|(pid, _)| confirmed.contains(pid)) {
            match pidfd_send_signal(pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => {
                    return Err(CgroupError::Kill {
                        pid: pid.as_raw_nonzero().get(),
                        path: self.path.clone(),
                        source: error.into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Kills all processes one by one, until there is none that was not killed yet.
    fn kill_each(&self) -> Result<(), CgroupError> {
        let start = Instant::now();
        let own = getpid();
        let mut killed: Vec<Pid> = Vec::new();
        for _ in 0..KILL_ROUNDS {
            let listed = self.processes()?;
            let fresh = listed.iter().copied();
            let fresh: Vec<(Pid, OwnedFd)> = fresh
                .filter(|pid| *pid != own && !killed.contains(pid))
                .filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)))
                .collect();
            if fresh.is_empty() {
                return Ok(());
            }
            // A pid may have passed to a stranger between the reading and the opening. One
            // that is still in the group now had not, and from here on the pidfd holds it.
            let confirmed = self.processes()?;
            for (pid, pidfd) in fresh {
                if !confirmed.contains(&pid) {
                    continue;
                }
                match pidfd_send_signal(&pidfd, Signal::KILL) {
                    Ok(()) => killed.push(pid),
                    Err(Errno::SRCH) => {}
                    Err(error) => {
                        return Err(CgroupError::Kill {
                            pid: pid.as_raw_nonzero().get(),
                            path: self.path.clone(),
                            source: error.into(),
                        });
                    }
                }
            }
        }
        Err(self.timeout("empty", start))
    }

    /// Waits until the group and the groups inside it have no processes left.
    ///
    /// # Errors
    /// [`CgroupError::Timeout`] after `patience`, or [`CgroupError::Read`].
    pub fn wait_until_empty(&self, patience: Duration) -> Result<(), CgroupError> {
        self.wait("empty", patience, || Ok(self.processes()?.is_empty()))
    }

    /// Stops every process of the group, and returns when all are stopped. If that takes
    /// longer than two seconds the group is thawed again.
    ///
    /// # Errors
    /// [`CgroupError::Timeout`], [`CgroupError::NoFreezer`], or what reading and writing
    /// can fail with.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let (member, name, value) = self.freezer()?;
        member.write(name, if value { "FROZEN" } else { "1" })?;
        let mut tries = 0_u32;
        let result = self.wait("frozen", FREEZE_PATIENCE, || {
            if self.is_frozen()? {
                return Ok(true);
            }
            tries += 1;
            // A group of version 1 can hang in FREEZING when a process is born or joins in
            // the middle: the writing must be repeated, and at times after a thaw, lest
            // processes that wait for frozen ones never get there.
            if value && tries.is_multiple_of(25) {
                if tries.is_multiple_of(50) {
                    member.write(name, "THAWED")?;
                    std::thread::sleep(Duration::from_micros(100));
                }
                member.write(name, "FROZEN")?;
            }
            Ok(false)
        });
        if result.is_err() {
            let _ = self.thaw();
        }
        result
    }

    /// Lets the processes of the group go on.
    ///
    /// # Errors
    /// As [`Group::freeze`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let (member, name, value) = self.freezer()?;
        member.write(name, if value { "THAWED" } else { "0" })?;
        self.wait("thawed", FREEZE_PATIENCE, || Ok(!self.is_frozen()?))
    }

    /// Whether every process of the group is stopped by [`Group::freeze`].
    ///
    /// # Errors
    /// [`CgroupError::Read`] or [`CgroupError::NoFreezer`].
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let (member, name, is_v1) = self.freezer()?;
        if is_v1 {
            return Ok(member.read(name)?.trim_ascii() == "FROZEN");
        }
        let events = member.read("cgroup.events")?;
        Ok(file::number_of_key(&events, "frozen") == Some(1))
    }

    /// The file that freezes, and whether it is version 1's.
    fn freezer(&self) -> Result<(Member<'_>, &'static str, bool), CgroupError> {
        if let Some(member) = self.v1("freezer") {
            return Ok((member, "freezer.state", true));
        }
        match self.v2() {
            Some(member) => Ok((member, "cgroup.freeze", false)),
            None => Err(CgroupError::NoFreezer {
                path: self.path.clone(),
            }),
        }
    }

    /// The hierarchy that says which processes there are. Beside version 1 that is the
    /// freezer's, so that what is listed is what was frozen.
    fn tracking(&self) -> Option<Member<'_>> {
        self.v1("freezer")
            .or_else(|| self.members().find(|member| !member.hierarchy.is_v2()))
            .or_else(|| self.v2())
    }

    fn wait(
        &self,
        state: &'static str,
        patience: Duration,
        mut is_reached: impl FnMut() -> Result<bool, CgroupError>,
    ) -> Result<(), CgroupError> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(100);
        while !is_reached()? {
            if start.elapsed() >= patience {
                return Err(self.timeout(state, start));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }

    fn timeout(&self, state: &'static str, start: Instant) -> CgroupError {
        CgroupError::Timeout {
            path: self.path.clone(),
            state,
            milliseconds: start.elapsed().as_millis(),
        }
    }
}

fn open_join_file(member: &Member<'_>, name: &str) -> Result<OwnedFd, CgroupError> {
    file::open_for_writing(member.directory, name).map_err(|source| CgroupError::Open {
        path: format!("{}/{name}", member.absolute()),
        source,
    })
}

/// Ids of the processes in a group and below it.
pub(super) fn processes_below(member: &Member<'_>) -> Result<Vec<Pid>, CgroupError> {
    let mut pids = Vec::new();
    collect(member.directory, 0, &mut pids).map_err(|source| CgroupError::Read {
        path: format!("{}/cgroup.procs", member.absolute()),
        source,
    })?;
    Ok(pids)
}

fn collect(directory: BorrowedFd<'_>, depth: usize, pids: &mut Vec<Pid>) -> io::Result<()> {
    match file::read(directory, "cgroup.procs") {
        Ok(text) => {
            // 0 stands for a process that this PID namespace does not see.
            let listed = text.lines().filter_map(|line| line.parse().ok());
            pids.extend(listed.filter_map(Pid::from_raw));
        }
        Err(error) => {
            // Gone meanwhile; or threaded, and then its processes are listed above it.
            let harmless = [Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP];
            if harmless.iter().any(|errno| file::is(&error, *errno)) {
                return Ok(());
            }
            return Err(error);
        }
    }
    if depth >= MAX_DEPTH {
        return Err(Errno::LOOP.into());
    }
    // A directory without children has two links; most groups are spared the listing.
    if rustix::fs::fstat(directory).is_ok_and(|stat| stat.st_nlink <= 2) {
        return Ok(());
    }
    for name in children(directory)? {
        match open_directory(directory, &name) {
            Ok(child) => collect(child.as_fd(), depth + 1, pids)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
