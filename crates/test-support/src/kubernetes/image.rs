//! What stands for a container image: programs of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The image with everything that this machine has in its system directories, for shell scripts.
pub const HOST_IMAGE: &str = "lifeboat.test/host";

/// What a container of an image finds in its root directory.
#[derive(Debug, Clone)]
pub enum Image {
    /// One static program and nothing else, as in an image from scratch.
    Program {
        /// The program on this machine.
        program: PathBuf,
        /// Where it is in the image, and what is started where a pod names no command.
        entrypoint: String,
    },
    /// This machine's own system directories.
    Host,
}

impl Image {
    /// The image of a static program.
    #[must_use]
    pub fn of_program(program: &Path) -> Image {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        Image::Program {
            program: program.into(),
            entrypoint: format!("/{name}"),
        }
    }

    /// What is started where a pod names no command.
    pub(super) fn entrypoint(&self) -> Vec<String> {
        match self {
            Image::Program { entrypoint, .. } => vec![entrypoint.clone()],
            Image::Host => vec!["/bin/sh".into()],
        }
    }
}

/// The images that a cluster's nodes have.
#[derive(Debug, Clone)]
pub struct Images(BTreeMap<String, Image>);

impl Default for Images {
    fn default() -> Self {
        Images(BTreeMap::from([(HOST_IMAGE.to_string(), Image::Host)]))
    }
}

impl Images {
    /// Adds an image.
    #[must_use]
    pub fn with(mut self, name: &str, image: Image) -> Images {
        self.0.insert(name.into(), image);
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&Image> {
        self.0.get(name)
    }
}
