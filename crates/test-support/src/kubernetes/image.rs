//! What stands for a container image: programs of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The image with everything that this machine has in its system directories, for shell scripts.
pub const HOST_IMAGE: &str = "lifeboat.test/host";

/// What a container of an image finds in its root directory.
#[derive(Debug, Clone)]
pub struct Image {
    /// A program, and where it is in the image.
    pub(super) program: Option<(PathBuf, String)>,
    /// Whether this machine's own system directories are there.
    pub(super) system: bool,
}

impl Image {
    /// One static program and nothing else, as in an image from scratch. In the image it is called as the image.
    #[must_use]
    pub fn of_program(program: &Path) -> Image {
        Image {
            program: Some((program.into(), String::new())),
            system: false,
        }
    }

    /// This machine's own system directories.
    #[must_use]
    pub fn of_system() -> Image {
        Image {
            program: None,
            system: true,
        }
    }

    /// Adds this machine's system directories, for a program that needs libraries.
    #[must_use]
    pub fn with_system(mut self) -> Image {
        self.system = true;
        self
    }

    /// The command for a pod that does not name one.
    pub(super) fn entrypoint(&self) -> Vec<String> {
        let shell = || "/bin/sh".to_string();
        vec![
            self.program
                .as_ref()
                .map_or_else(shell, |(_, at)| at.clone()),
        ]
    }
}

/// The images that a cluster's nodes have.
#[derive(Debug, Clone)]
pub struct Images(BTreeMap<String, Image>);

impl Default for Images {
    fn default() -> Self {
        Images(BTreeMap::from([(
            HOST_IMAGE.to_string(),
            Image::of_system(),
        )]))
    }
}

impl Images {
    /// Adds an image. Its program is in the root directory, under the last part of the image's name.
    #[must_use]
    pub fn with(mut self, name: &str, mut image: Image) -> Images {
        let last = name.rsplit('/').next().unwrap_or(name);
        let called = last.split([':', '@']).next().unwrap_or(last);
        if let Some((_, at)) = &mut image.program {
            *at = format!("/{called}");
        }
        self.0.insert(name.into(), image);
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&Image> {
        self.0.get(name)
    }
}
