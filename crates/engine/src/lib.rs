//! The engine: sandboxes, containers, images, volumes and networks as objects, and the
//! state that every process of an installation shares.
//!
//! There is no daemon. Each process opens the engine, does its work itself and leaves;
//! what has to live with a container is its supervisor's.

mod attach;
pub mod config;
mod container;
mod create;
mod error;
mod exec;
mod head_start;
mod images;
mod info;
mod init_layer;
mod inspect;
mod launch;
mod list;
mod logs;
mod merge;
mod names;
mod networks;
mod operation;
mod order;
mod paths;
mod recover;
mod run_names;
mod runtimes;
mod settle;
mod store;

use std::cell::{OnceCell, RefCell, RefMut};
use std::path::Path;

use store::Store;

pub use attach::{AttachEvent, AttachOptions, Attachment};
pub use create::{Created, Running};
pub use error::Error;
pub use exec::ExecRequest;
pub use gantry_image as image;
pub use gantry_supervisor::protocol::Stream;
pub use head_start::HeadStart;
pub use images::{
    Committed, DiskUsage, HistoryStep, ImageError, ImageSummary, ImageTree, ImportEvent,
    ImportRequest, ImportSource, LoadedImage, PlatformNode, PullOutcome, PullRequest, PushOutcome,
    Removal, UsageItem, UsageKind, UsageObject, Verified, sync_layers,
};
pub use list::{ContainerSummary, PortSummary};
pub use logs::{LogEntry, LogOptions};
pub use merge::CreateRequest;
pub use networks::{NetworkRequest, NetworkSummary, SubnetRequest};
pub use paths::Roots;

/// The engine of one process.
#[derive(Debug)]
pub struct Engine {
    roots: Roots,
    /// Opened by the first who needs it, which costs about 1 ms. Absent while it cannot be
    /// opened: what runs can be managed without it.
    store: OnceCell<Result<RefCell<Store>, RefCell<Option<Error>>>>,
}

impl Engine {
    /// Opens an installation, makes it if it is new, and finishes or undoes what
    /// processes that died have left.
    ///
    /// # Errors
    /// [`Error::NotRoot`], [`Error::Path`] where the run root cannot be used. A data root
    /// that cannot be used is an error only of what needs it.
    pub fn open(roots: Roots) -> Result<Engine, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        if !roots.operations().exists() {
            paths::root_directory(&roots.run)?;
            for name in ["containers", "sandboxes", "names", "networks", "ops"] {
                paths::private_directory(&roots.run.join(name))?;
            }
        }
        let engine = Engine {
            roots,
            store: OnceCell::new(),
        };
        engine.recover()?;
        Ok(engine)
    }

    /// Where the installation is.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    fn opened(&self) -> &Result<RefCell<Store>, RefCell<Option<Error>>> {
        self.store.get_or_init(|| {
            open_store(&self.roots.data)
                .map(RefCell::new)
                .map_err(|error| RefCell::new(Some(error)))
        })
    }

    /// The state store, for whoever needs it.
    fn store(&self) -> Result<RefMut<'_, Store>, Error> {
        match self.opened() {
            Ok(store) => Ok(store.borrow_mut()),
            // The first one to ask is told why; nobody asks twice.
            Err(error) => Err(error.borrow_mut().take().unwrap_or_else(|| Error::Path {
                action: "use the state store in",
                path: self.roots.data.clone(),
                source: std::io::ErrorKind::ReadOnlyFilesystem.into(),
            })),
        }
    }

    /// Whether there is a state store to work with.
    fn has_store(&self) -> bool {
        self.opened().is_ok()
    }

    /// Work that can wait until the user was answered.
    pub fn tidy(&self) {
        if let Some(Ok(store)) = self.store.get() {
            store.borrow().tidy();
        }
    }
}

fn open_store(data: &Path) -> Result<Store, Error> {
    if !data.join("containers").exists() {
        paths::root_directory(data)?;
        for name in ["containers", "volumes"] {
            paths::private_directory(&data.join(name))?;
        }
    }
    Store::open(data)
}
