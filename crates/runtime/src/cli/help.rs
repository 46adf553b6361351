//! What `--help` shows.

/// Of the program.
pub const PROGRAM: &str = "\
An OCI runtime: runs what the config.json of a bundle describes.

Usage: gantry-runtime [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]

Commands:
  create      create a container
  start       start the program of a created container
  run         create a container and start it
  state       show the state of a container
  list        list containers
  ps          list the processes of a container
  exec        run another program in a container
  kill        send a signal to a container
  delete      delete a container
  pause       freeze all processes of a container
  resume      let a frozen container go on
  update      change the limits of a container
  events      show what a container uses, and when it runs out of memory
  checkpoint  write a container to disk with criu
  restore     bring a container back from disk with criu
  spec        write a config.json to begin with
  features    show what this runtime can do

Options:
  --root DIR           where the state of containers is kept
                       (/run/gantry-runtime, or below XDG_RUNTIME_DIR for other users)
  --log FILE           write the log to FILE instead of standard error
  --log-format FORMAT  text or json
  --debug              log more
  --systemd-cgroup     let systemd make the control groups; cgroupsPath is slice:prefix:name
  --rootless WHEN      whether a missing right over control groups is no error:
                       true, false or auto
  --criu PROGRAM       accepted for runc's sake: criu is looked for in PATH, or is PROGRAM
  -h, --help           show this, or with a command what it takes
  -v, --version        show the versions of the program and the specification";

/// Of a command; nothing for a command that does not exist.
pub fn of(command: &str) -> Option<&'static str> {
    Some(match command {
        "create" => CREATE,
        "run" => RUN,
        "start" => "Usage: gantry-runtime start ID\n\nStarts the program of a created container.",
        "state" => "Usage: gantry-runtime state ID\n\nShows the state of a container as JSON.",
        "list" => LIST,
        "ps" => PS,
        "exec" => EXEC,
        "kill" => KILL,
        "delete" => DELETE,
        "pause" => "Usage: gantry-runtime pause ID\n\nFreezes all processes of a container.",
        "resume" => "Usage: gantry-runtime resume ID\n\nLets a frozen container go on.",
        "update" => UPDATE,
        "events" => EVENTS,
        "checkpoint" => CHECKPOINT,
        "restore" => RESTORE,
        "spec" => SPEC,
        "features" => {
            "Usage: gantry-runtime features\n\nShows what this runtime can do as JSON \
             (runtime-spec, features.md)."
        }
        _ => return None,
    })
}

const CREATE: &str = "\
Usage: gantry-runtime create [OPTIONS] ID

Creates a container; its program waits for `start`.

Options:
  -b, --bundle DIR        directory with config.json [the current one]
  --console-socket PATH   socket that receives the container's terminal
  --pid-file FILE         file that the process id is written to
  --pidfd-socket PATH     socket that receives a pidfd of the first process
  --no-pivot              do not use pivot_root
  --no-new-keyring        keep the caller's session keyring
  --preserve-fds N        leave N more descriptors open, from 3 on, after LISTEN_FDS";

const RUN: &str = "\
Usage: gantry-runtime run [OPTIONS] ID

Creates a container, starts it, and waits for its end unless told otherwise.

Options:
  -b, --bundle DIR        directory with config.json [the current one]
  -d, --detach            do not wait
  --keep                  do not delete the container at its end
  --console-socket PATH   socket that receives the container's terminal
  --pid-file FILE         file that the process id is written to
  --pidfd-socket PATH     socket that receives a pidfd of the first process
  --no-subreaper          do not adopt orphans of the container
  --no-pivot              do not use pivot_root
  --no-new-keyring        keep the caller's session keyring
  --preserve-fds N        leave N more descriptors open, from 3 on, after LISTEN_FDS";

const LIST: &str = "\
Usage: gantry-runtime list [OPTIONS]

Options:
  -q, --quiet          ids only
  -f, --format FORMAT  table or json";

const PS: &str = "\
Usage: gantry-runtime ps [OPTIONS] ID [PS-OPTIONS]

Shows the host's `ps` of the container's processes; its options are -ef without others.

Options:
  -f, --format FORMAT  table, or json for the process ids alone";

const KILL: &str = "\
Usage: gantry-runtime kill [OPTIONS] ID [SIGNAL]

Sends a signal, by name or number, to the first process of a container [TERM].

Options:
  -a, --all   to all of its processes";

const DELETE: &str = "\
Usage: gantry-runtime delete [OPTIONS] ID

Options:
  -f, --force   kill the container first if it runs; an unknown id is no error";

const EXEC: &str = "\
Usage: gantry-runtime exec [OPTIONS] ID COMMAND [ARGUMENTS]
       gantry-runtime exec [OPTIONS] --process FILE ID

Options:
  -p, --process FILE          process as JSON, like `process` of config.json
  -t, --tty                   give it a terminal
  -d, --detach                do not wait
  --console-socket PATH       socket that receives the terminal
  --cwd DIR                   working directory in the container
  -e, --env NAME=VALUE        add to the environment
  -u, --user UID[:GID]        user
  -g, --additional-gids GID   add a group
  -c, --cap NAME              add a capability
  --no-new-privs              set no-new-privileges
  --apparmor PROFILE          AppArmor profile
  --process-label LABEL       SELinux label
  --pid-file FILE             file that the process id is written to
  --pidfd-socket PATH         socket that receives a pidfd of the process
  --preserve-fds N            leave N more descriptors open, from 3 on
  --cgroup [CONTROLLER:]PATH  run in a control group inside the container's
  --ignore-paused             do not refuse a paused container";

const UPDATE: &str = "\
Usage: gantry-runtime update [OPTIONS] ID

Options:
  -r, --resources FILE           limits as JSON, like `linux.resources` of config.json;
                                 - for standard input; other options are ignored then
  --memory BYTES                 memory; -1 for no limit, as below
  --memory-reservation BYTES     memory that is kept when others want some
  --memory-swap BYTES            memory and swap together
  --cpu-share N                  weight
  --cpu-quota MICROSECONDS       processor time in a period
  --cpu-period MICROSECONDS      length of a period
  --cpu-burst MICROSECONDS       processor time that may be saved up
  --cpu-idle 0|1                 run only when nobody else wants to
  --cpu-rt-runtime MICROSECONDS  realtime in a period
  --cpu-rt-period MICROSECONDS   length of a realtime period
  --cpuset-cpus LIST             processors
  --cpuset-mems LIST             memory nodes
  --blkio-weight N               weight of block I/O, 10 to 1000
  --pids-limit N                 number of tasks
  --l3-cache-schema TEXT         Intel RDT
  --mem-bw-schema TEXT           Intel RDT";

const EVENTS: &str = "\
Usage: gantry-runtime events [OPTIONS] ID

Shows a line of JSON for what the container uses every few seconds, and for each time it
ran out of memory, until it ends.

Options:
  --stats              what it uses now, and nothing more
  --interval DURATION  time between two lines, such as 500ms, 5s or 1m [5s]";

const SPEC: &str = "\
Usage: gantry-runtime spec [OPTIONS]

Options:
  -b, --bundle DIR   directory that config.json is written into [the current one]
  --rootless         for a container that needs no privileges";

const CHECKPOINT: &str = "\
Usage: gantry-runtime checkpoint [OPTIONS] ID

Options:
  --image-path DIR             where the images go [./checkpoint]
  --work-path DIR              where criu writes its log [the container's state]
  --parent-path DIR            images of an earlier --pre-dump, relative to --image-path
  --leave-running              let the container go on
  --pre-dump                   write the memory only; the container goes on
  --page-server ADDRESS:PORT   send the memory to a `criu page-server`
  --tcp-established            allow open TCP connections
  --ext-unix-sk                allow Unix sockets to the outside
  --shell-job                  allow a terminal of the outside
  --file-locks                 allow file locks
  --auto-dedup                 remove what a later image replaces
  --empty-ns NAME              leave the contents of a namespace out: network
  --manage-cgroups-mode MODE   soft, full, strict or ignore";

const RESTORE: &str = "\
Usage: gantry-runtime restore [OPTIONS] ID

Options:
  -b, --bundle DIR             directory with config.json [the current one]
  --image-path DIR             where the images are [./checkpoint]
  --work-path DIR              where criu writes its log [the container's state]
  -d, --detach                 do not wait
  --pid-file FILE              file that the process id is written to
  --console-socket PATH        socket that receives the container's terminal
  --no-subreaper, --no-pivot   accepted for runc's sake
  --tcp-established, --ext-unix-sk, --shell-job, --file-locks, --auto-dedup,
  --empty-ns NAME, --manage-cgroups-mode MODE, --lsm-profile TYPE:NAME,
  --lsm-mount-context CONTEXT  as criu takes them";
