//! Starting containers and execs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use gantry_runtime::BirthError;
use gantry_runtime::birth::{self, Birth, News, Plan, Stdio};
use gantry_runtime::cgroup::{Group, Layout};
use gantry_runtime::enter::{self, EnterPlan};
use gantry_runtime::rootfs::{Overlay, RootSource};
use gantry_runtime::spec::{Linux, NamespaceKind};
use rustix::event::{PollFd, PollFlags, poll};

use crate::agent::Agent;
use crate::foreign::{self, Failure, Foreign};
use crate::network;
use crate::order::{BirthOrder, ExecOrder, NetworkOrder, PROTOCOL, RunState, RunStatus};
use crate::protocol::{Attach, Reply, Stream};
use crate::record;
use crate::stream::{Output, free_slot, program_pipe};
use crate::task::{self, Mirror, Task, TaskRecord};

use super::Worker;
use super::connection::Watch;

impl From<BirthError> for Failure {
    fn from(error: BirthError) -> Failure {
        Failure {
            code: error.exit_code(),
            message: error.chain(),
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure { code: 125, message }
    }
}

/// Where in the output a client begins.
#[derive(Clone, Copy)]
enum Begin {
    /// With the first byte: it is the one that has the task started.
    WithTask,
    /// With what comes from now on.
    Now,
}

/// Both sides of a task's standard streams.
pub(super) struct Streams {
    pub(super) given: Stdio,
    stdin: Option<OwnedFd>,
    outputs: Vec<(Stream, OwnedFd)>,
}

impl Worker {
    pub(super) fn begin_container(
        &mut self,
        index: usize,
        order: &BirthOrder,
        attach: Option<Attach>,
    ) {
        if self.is_known(index, &order.container, attach.as_ref()) {
            return;
        }
        match self.start_container(order) {
            Ok(()) => self.watch(index, &order.container, attach, Begin::WithTask),
            Err(failure) => self.refuse(index, failure),
        }
    }

    pub(super) fn begin_exec(&mut self, index: usize, order: &ExecOrder, attach: Option<Attach>) {
        if self.is_known(index, &order.id, attach.as_ref()) {
            return;
        }
        match self.start_exec(order) {
            Ok(()) => self.watch(index, &order.id, attach, Begin::WithTask),
            Err(failure) => self.refuse(index, failure),
        }
    }

    fn refuse(&mut self, index: usize, failure: Failure) {
        let reply = Reply::Failed {
            code: failure.code,
            message: failure.message,
        };
        self.connections[index].reply(&reply, None);
    }

    /// A client whose connection broke asks again for what it has asked for before.
    fn is_known(&mut self, index: usize, id: &str, attach: Option<&Attach>) -> bool {
        if let Some(code) = self.shared.exit_code(id) {
            self.connections[index].reply(&Reply::Exited { code }, None);
            return true;
        }
        if self.shared.tasks.contains_key(id) {
            // It has seen nothing yet, and all that came since the start was kept for it.
            self.watch(index, id, attach.cloned(), Begin::WithTask);
            self.answer_if_running(index);
            return true;
        }
        false
    }

    pub(super) fn attach(&mut self, index: usize, id: &str, attach: Attach) {
        if self.shared.tasks.contains_key(id) {
            self.watch(index, id, Some(attach), Begin::Now);
            self.answer_if_running(index);
        } else if let Some(code) = self.shared.exit_code(id) {
            self.connections[index].reply(&Reply::Exited { code }, None);
        } else {
            let message = "the container is not running".into();
            self.connections[index].reply(&Reply::Refused { message }, None);
        }
    }

    /// Ties a connection to a task.
    fn watch(&mut self, index: usize, id: &str, attach: Option<Attach>, begin: Begin) {
        let Some(task) = self.shared.tasks.get(id) else {
            return;
        };
        let attach = attach.unwrap_or_default();
        let mut sent = [0, 0];
        for output in &task.outputs {
            let held = output
                .look(&self.sandbox.page, &self.scratch)
                .unwrap_or_default();
            let place = match begin {
                Begin::WithTask => held.offset,
                Begin::Now => held.end(),
            };
            sent[output.stream as usize] = place;
        }
        if let Some(resume) = attach.resume {
            sent = resume;
        }
        if attach.stdout || attach.stderr {
            let client = attach.client.clone();
            let settles = attach.settles;
            self.shared
                .watchers
                .insert(client.clone(), (id.into(), settles));
            let message = Mirror::Attached {
                task: id.into(),
                client,
                settles,
            };
            let _ = task::send(self.partner.as_fd(), &message, &[]);
        }
        self.connections[index].watch = Some(Watch {
            task: id.into(),
            attach,
            sent,
            started: false,
        });
    }

    fn answer_if_running(&mut self, index: usize) {
        let watch = self.connections[index].watch.as_ref();
        let task = watch.and_then(|watch| self.shared.tasks.get(&watch.task));
        if task.is_some_and(|task| task.birth.is_none()) {
            self.answer_started(index);
        }
    }

    fn answer_started(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(watch) = &mut connection.watch else {
            return;
        };
        let Some(task) = self.shared.tasks.get(&watch.task) else {
            return;
        };
        watch.started = true;
        let stdin = if watch.attach.stdin {
            task.input()
                .and_then(|input| input.try_clone_to_owned().ok())
        } else {
            None
        };
        let reply = Reply::Started {
            pid: task.record.pid,
            terminal: task.record.terminal,
            offsets: watch.sent,
            warnings: task.warnings.clone(),
        };
        connection.reply(&reply, stdin);
    }

    fn layout(&mut self) -> Result<&Layout, Failure> {
        if self.layout.is_none() {
            let layout = Layout::detect()
                .map_err(|error| format!("cannot read the control groups: {error}"))?;
            self.layout = Some(layout);
        }
        self.layout
            .as_ref()
            .ok_or_else(|| Failure::from("no control groups".to_owned()))
    }

    fn start_container(&mut self, order: &BirthOrder) -> Result<(), Failure> {
        let joined = match order.network {
            NetworkOrder::Shared => Some(self.sandbox_network()?),
            _ => None,
        };
        let ports = match &order.network {
            // What has no way out is not reached from outside either.
            NetworkOrder::Bridge(bridge) if bridge.published().is_some() => {
                network::reserve_ports(&bridge.ports)?
            }
            _ => network::HeldPorts::default(),
        };
        let layout = self.layout()?.clone();
        if self.successor {
            self.clear_remains(order, &layout);
        }
        let mut host = network::host_side(&order.network)?;
        let group = Group::create(&layout, &order.cgroup).map_err(|error| error_text(&error))?;
        let runtime = order.runtime.as_ref();
        let mut foreign = runtime.map(|runtime| Foreign::of_container(runtime, &order.run_dir));
        let born = match &mut foreign {
            None => self.clone_container(order, &layout, &group, joined, host.as_mut()),
            Some(foreign) => self.fork_helper(order, foreign, joined, host.as_mut()),
        };
        let (birth, streams, warnings) = match born {
            Ok(born) => born,
            Err(failure) => {
                let _ = group.remove();
                return Err(failure);
            }
        };
        let mut record = TaskRecord::of_container(order);
        record.pid = birth.pid;
        record.ports = ports.published;
        record.foreign = foreign.map(Box::new);
        let mut task = self.new_task(record, &birth, streams)?;
        task.ports = ports.sockets;
        task.warnings = warnings;
        task.open_log();
        let linux = order.spec.linux.as_ref();
        task.agent = Agent::of(
            linux.and_then(|linux| linux.seccomp.as_ref()),
            &order.container,
            &order.run_dir,
            &order.spec.annotations,
            "creating",
            birth.pid,
        )?;
        task.birth = Some(birth);
        let connected = self.connect_network(order, host.as_mut(), &mut task);
        let id = order.container.clone();
        self.shared.tasks.insert(id.clone(), task);
        let connected = connected.and_then(|()| self.start_names(&id));
        if let Err(message) = connected {
            // A child that has failed by then has no namespaces left; its own report, which
            // went before, says why.
            let birth = self
                .shared
                .tasks
                .get(&id)
                .and_then(|task| task.birth.as_ref());
            let told = birth.and_then(early_failure);
            self.abandon(&id);
            return Err(told.unwrap_or_else(|| message.into()));
        }
        match order.runtime {
            None => Ok(()),
            Some(_) => self.let_begin(&id),
        }
    }

    /// Removes what a predecessor has made for the same container before it died. Its
    /// child is dead by now; its network namespace may take a while to be.
    fn clear_remains(&mut self, order: &BirthOrder, layout: &Layout) {
        if let Ok(group) = Group::open(layout, &order.cgroup) {
            let _ = group.kill();
            let _ = group.remove();
        }
        if let NetworkOrder::Bridge(bridge) = &order.network {
            network::clear(bridge, &order.container);
        }
    }

    fn clone_container(
        &self,
        order: &BirthOrder,
        layout: &Layout,
        group: &Group,
        joined: Option<OwnedFd>,
        mut host: Option<&mut network::HostSide>,
    ) -> Result<(Birth, Streams, Vec<String>), Failure> {
        let mut warnings = Vec::new();
        if let Some(resources) = order
            .spec
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref())
        {
            warnings = group.apply(resources).map_err(|error| error_text(&error))?;
        }
        let terminal = order
            .spec
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        let mut streams = make_streams(terminal, order.open_stdin)?;
        let given = std::mem::replace(&mut streams.given, Stdio::Terminal);
        let root = RootSource::Overlay(Overlay {
            lower: order.lower.clone(),
            upper: order.upper.clone(),
            work: order.work.clone(),
            volatile: order.volatile,
        });
        let mut inside = |proc: std::os::fd::BorrowedFd<'_>| {
            network::configure_inside(&order.network, host.as_deref_mut(), proc)
        };
        let birth = birth::begin(Plan {
            spec: &order.spec,
            root: &root,
            user: Some(&order.user),
            layout,
            group: Some(group),
            stdio: given,
            joined: joined
                .map(|network| (NamespaceKind::Network, network))
                .into_iter()
                .collect(),
            init: order.init,
            inside: &mut inside,
            gate: None,
            hooks: None,
            keep_fds: 0,
            no_pivot: false,
        })?;
        Ok((birth, streams, warnings))
    }

    pub(super) fn new_task(
        &self,
        record: TaskRecord,
        birth: &Birth,
        streams: Streams,
    ) -> Result<Task, Failure> {
        let failed = |error: io::Error| {
            Failure::from(format!("cannot hold the task's descriptors: {error}"))
        };
        let mut task = Task::new(record, birth.pidfd.try_clone().map_err(failed)?);
        task.record.start_ticks = record::start_ticks(birth.pid).unwrap_or(0);
        task.stdin = streams.stdin;
        for (stream, source) in streams.outputs {
            task.outputs
                .push(Output::new(&self.sandbox.page, stream, source).map_err(failed)?);
        }
        Ok(task)
    }

    fn connect_network(
        &mut self,
        order: &BirthOrder,
        host: Option<&mut network::HostSide>,
        task: &mut Task,
    ) -> Result<(), String> {
        if let NetworkOrder::Shared = order.network {
            // The child may not have joined it yet.
            task.network = self.sandbox_network().ok();
            return Ok(());
        }
        let path = format!("/proc/{}/ns/net", task.record.pid);
        let namespace =
            fs::File::open(&path).map_err(|error| format!("cannot open {path}: {error}"))?;
        let namespace = OwnedFd::from(namespace);
        if let (NetworkOrder::Bridge(bridge), Some(host)) = (&order.network, host) {
            network::connect(bridge, host, namespace.as_fd())?;
            task.record.instance.clone_from(&bridge.instance);
            task.record.dns.clone_from(&bridge.dns);
            let ports = &task.record.ports;
            network::publish_ports(&mut self.firewall, bridge, &order.container, ports)?;
            if let Some(published) = bridge.published() {
                self.proxies.add(published.address, &task.record.ports);
                self.proxies.listen(task);
            }
        }
        task.network = Some(namespace);
        Ok(())
    }

    fn sandbox_network(&self) -> Result<OwnedFd, Failure> {
        let network = self
            .shared
            .tasks
            .values()
            .find_map(|task| task.network.as_ref());
        let network = network.ok_or_else(|| Failure::from("the sandbox has ended".to_owned()))?;
        network
            .try_clone()
            .map_err(|error| Failure::from(error.to_string()))
    }

    fn start_exec(&mut self, order: &ExecOrder) -> Result<(), Failure> {
        let not_running = || Failure {
            code: 126,
            message: format!("container {} is not running", short(&order.container)),
        };
        let container = self
            .shared
            .tasks
            .get(&order.container)
            .ok_or_else(not_running)?;
        if container.birth.is_some() || container.record.status.is_some() {
            return Err(not_running());
        }
        let cgroup = container.record.cgroup.clone();
        let (run_dir, first) = (container.record.run_dir.clone(), container.record.pid);
        let pidfd = container
            .pidfd
            .try_clone()
            .map_err(|error| Failure::from(error.to_string()))?;
        if let Some(container_foreign) = &container.record.foreign {
            let foreign = container_foreign.of_exec(&order.id);
            let init = container.record.pid;
            return self.start_foreign_exec(order, foreign, init, cgroup);
        }
        let layout = self.layout()?.clone();
        let group = Group::open(&layout, &cgroup).map_err(|error| error_text(&error))?;
        let linux = Linux {
            seccomp: order.seccomp.clone(),
            ..Linux::default()
        };
        let mut streams = make_streams(order.process.terminal, order.open_stdin)?;
        let given = std::mem::replace(&mut streams.given, Stdio::Terminal);
        let birth = enter::begin(EnterPlan {
            process: &order.process,
            linux: Some(&linux),
            user: Some(&order.user),
            container: pidfd.as_fd(),
            group: Some(&group),
            stdio: given,
            keep_fds: 0,
        })?;
        let mut record = TaskRecord::of_exec(order);
        record.pid = birth.pid;
        record.cgroup = cgroup;
        let mut task = self.new_task(record, &birth, streams)?;
        task.agent = Agent::of(
            order.seccomp.as_ref(),
            &order.container,
            &run_dir,
            &BTreeMap::new(),
            "running",
            first,
        )?;
        task.birth = Some(birth);
        self.shared.tasks.insert(order.id.clone(), task);
        Ok(())
    }

    /// What the child says on its way.
    pub(super) fn hear_birth(&mut self, id: &str) {
        let Some(task) = self.shared.tasks.get_mut(id) else {
            return;
        };
        let Some(birth) = &task.birth else { return };
        match birth.news() {
            News::Warning(text) => task.warnings.push(text),
            // A helper that was asked again hands it over twice.
            News::Terminal(_) if task.master.is_some() => {}
            News::Terminal(master) => {
                if let Err(message) = take_terminal(&self.sandbox.page, task, master) {
                    self.fail(id, &Failure::from(message));
                }
            }
            News::Listener(listener) => {
                let given = match &task.agent {
                    Some(agent) => agent.give(birth, &listener).map_err(Failure::from),
                    None => Err("the listener of the filter was lost with the worker"
                        .to_owned()
                        .into()),
                };
                if let Err(failure) = given {
                    self.fail(id, &failure);
                }
            }
            // A helper that was asked again says it twice.
            News::Prepared if task.record.foreign.is_some() && !task.record.is_helper() => {
                self.resume_birth(id);
            }
            News::Prepared => {
                let taken = self.take_born(id);
                if let Err(message) = taken.and_then(|()| self.let_go_on(id)) {
                    self.fail(id, &Failure::from(message));
                }
            }
            News::Running => {
                if let Err(failure) = self.judge_helper(id) {
                    return self.fail(id, &failure);
                }
                if let Some(task) = self.shared.tasks.get_mut(id) {
                    task.birth = None;
                    task.agent = None;
                }
                for index in self.watchers_of(id) {
                    self.answer_started(index);
                }
                self.release_detached(id);
                gantry_sys::memory::release_free();
            }
            News::Failed(error) => self.fail(id, &Failure::from(error)),
        }
    }

    /// Everything is prepared: the container is put on record, then it may run.
    fn let_go_on(&mut self, id: &str) -> Result<(), String> {
        let Some(task) = self.shared.tasks.get_mut(id) else {
            return Ok(());
        };
        task.record.started_at = record::now();
        // The other process must know of the container before it can run: from here on
        // its death would be the container's.
        let told = task::send_task(self.partner.as_fd(), task);
        if let Err(error) = told.or_else(tolerate_death) {
            return Err(format!("cannot tell the other process: {error}"));
        }
        if !task.record.is_exec() {
            record::write_state(&task.record.run_dir, &running_state(&task.record)).map_err(
                |error| format!("cannot write {}: {error}", task.record.run_dir.display()),
            )?;
        }
        match &task.birth {
            Some(birth) => birth.give_the_word().map_err(|error| error.chain()),
            None => Ok(()),
        }
    }

    /// Goes on with a birth of which a predecessor had told: all is prepared, and whether
    /// the word was given nobody knows. A second word is never read.
    pub(super) fn resume_birth(&mut self, id: &str) {
        let Some(task) = self.shared.tasks.get(id) else {
            return;
        };
        let record = &task.record;
        if let (true, Some(birth)) = (record.is_helper(), &task.birth) {
            return foreign::ask_again(birth);
        }
        let mut recorded = Ok(());
        if !record.is_exec() && !record.run_dir.join(record::STATE_FILE).exists() {
            recorded = record::write_state(&record.run_dir, &running_state(record));
        }
        match (recorded, &task.birth) {
            (Err(error), _) => {
                let directory = record.run_dir.display().to_string();
                let failure = Failure::from(format!("cannot write {directory}: {error}"));
                self.fail(id, &failure);
            }
            // What the child has to say, or that it is the program by now, it says itself.
            (Ok(()), Some(birth)) => drop(birth.give_the_word()),
            (Ok(()), None) => {}
        }
    }

    fn watchers_of(&self, id: &str) -> Vec<usize> {
        let watching = self.connections.iter().enumerate();
        let watching = watching.filter(|(_, connection)| {
            connection
                .watch
                .as_ref()
                .is_some_and(|watch| watch.task == id)
        });
        watching.map(|(index, _)| index).collect()
    }

    /// A client that wants no output is done once the task runs.
    fn release_detached(&mut self, id: &str) {
        for index in self.watchers_of(id) {
            let connection = &mut self.connections[index];
            if connection
                .watch
                .as_ref()
                .is_some_and(|watch| !watch.attach.stdout && !watch.attach.stderr)
            {
                connection.watch = None;
            }
        }
    }

    /// Tells the clients that a start has failed and undoes what was made.
    fn fail(&mut self, id: &str, failure: &Failure) {
        for index in self.watchers_of(id) {
            let connection = &mut self.connections[index];
            connection.watch = None;
            connection.reply(
                &Reply::Failed {
                    code: failure.code,
                    message: failure.message.clone(),
                },
                None,
            );
        }
        self.shared.watchers.retain(|_, (task, _)| task != id);
        self.abandon(id);
    }

    /// Undoes a start. The end of its channel would do, but the other process may have
    /// that too.
    pub(super) fn abandon(&mut self, id: &str) {
        let Some(mut task) = self.shared.tasks.remove(id) else {
            return;
        };
        task.birth = None;
        self.end_foreign(&task);
        let kill = rustix::process::Signal::KILL;
        let _ = rustix::process::pidfd_send_signal(&task.pidfd, kill);
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(task.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
        for output in &task.outputs {
            free_slot(&self.sandbox.page, output.slot);
        }
        self.undo_outside(&task);
        self.forget_foreign(&task);
        let _ = fs::remove_file(task.record.run_dir.join(record::STATE_FILE));
        // The other process knows of it only if it was all but running.
        let _ = task::send(
            self.partner.as_fd(),
            &Mirror::Gone {
                id: id.into(),
                code: 125,
            },
            &[],
        );
    }
}

/// What a child has said of its failure, without waiting for any word of it.
fn early_failure(birth: &Birth) -> Option<Failure> {
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let channel = birth.as_fd();
    loop {
        let mut fds = [PollFd::new(&channel, PollFlags::IN)];
        if !poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
            return None;
        }
        match birth.news() {
            News::Failed(error) => return Some(error.into()),
            News::Warning(_) | News::Terminal(_) | News::Listener(_) => {}
            News::Prepared | News::Running => return None,
        }
    }
}

/// The state record of a running container.
pub(super) fn running_state(record: &TaskRecord) -> RunState {
    RunState {
        protocol: PROTOCOL,
        container: record.id.clone(),
        status: RunStatus::Running,
        pid: record.pid,
        start_ticks: record.start_ticks,
        started_at: record.started_at,
        ports: record.ports.clone(),
        summary: record.summary.clone(),
        ..RunState::default()
    }
}

/// The other process may have died itself; its successor will be a copy of this one.
pub(super) fn tolerate_death(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

fn take_terminal(
    page: &gantry_sys::shared::SharedWords,
    task: &mut Task,
    master: OwnedFd,
) -> Result<(), String> {
    let source = master.try_clone().map_err(|error| error.to_string())?;
    let output = Output::new(page, Stream::Stdout, source).map_err(|error| error.to_string())?;
    task.outputs.push(output);
    task.master = Some(master);
    Ok(())
}

pub(super) fn make_streams(terminal: bool, open_stdin: bool) -> Result<Streams, Failure> {
    let failed =
        |error: io::Error| Failure::from(format!("cannot make the standard streams: {error}"));
    if terminal {
        return Ok(Streams {
            given: Stdio::Terminal,
            stdin: None,
            outputs: Vec::new(),
        });
    }
    let (stdin, feed) = if open_stdin {
        let (reader, writer) = program_pipe().map_err(failed)?;
        (reader, Some(writer))
    } else {
        (fs::File::open("/dev/null").map_err(failed)?.into(), None)
    };
    let (stdout_reader, stdout) = program_pipe().map_err(failed)?;
    let (stderr_reader, stderr) = program_pipe().map_err(failed)?;
    Ok(Streams {
        given: Stdio::Plain([stdin, stdout, stderr]),
        stdin: feed,
        outputs: vec![
            (Stream::Stdout, stdout_reader),
            (Stream::Stderr, stderr_reader),
        ],
    })
}

fn error_text(error: &dyn std::error::Error) -> Failure {
    Failure::from(crate::chain(error))
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
