//! How images came to be.

use super::parse_config;
use crate::Engine;
use crate::error::Error;

/// One step, the newest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HistoryStep {
    /// Id of the image, for its last step; `<missing>` for those before.
    pub id: String,
    /// When, as RFC 3339.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// Bytes in the files of its layer.
    pub size: u64,
    /// Remark.
    pub comment: String,
    /// Names of the image, for its last step.
    pub tags: Vec<String>,
}

impl Engine {
    /// The steps by which an image was made, the newest first. Histories and layers that do
    /// not agree in number are no error (CVE-2024-36620): what has no layer has no size.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::DamagedImage`], [`Error::Content`],
    /// [`super::ImageError::OtherPlatform`].
    pub fn image_history(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> Result<Vec<HistoryStep>, Error> {
        let row = self.find_image_of(name, platform)?;
        let config = parse_config(&row)?;
        let content = self.content()?;
        let mut layers = config.rootfs.diff_ids.iter();
        let mut steps = Vec::new();
        for step in &config.history {
            let layer = if step.empty_layer == Some(true) {
                None
            } else {
                layers.next()
            };
            let record = layer.and_then(|layer| content.layer_record(layer).ok().flatten());
            steps.push(HistoryStep {
                id: "<missing>".into(),
                created: step.created.clone(),
                created_by: step.created_by.clone().unwrap_or_default(),
                size: record.map_or(0, |record| record.bytes),
                comment: step.comment.clone().unwrap_or_default(),
                tags: Vec::new(),
            });
        }
        for layer in layers {
            let record = content.layer_record(layer).ok().flatten();
            steps.push(HistoryStep {
                id: "<missing>".into(),
                created: config.created.clone(),
                size: record.map_or(0, |record| record.bytes),
                ..HistoryStep::default()
            });
        }
        steps.reverse();
        let tags = self.store()?.tags()?;
        if let Some(last) = steps.first_mut() {
            last.tags = tags
                .iter()
                .filter(|tag| tag.image_id == row.id && !tag.tag.is_empty())
                .map(|tag| {
                    format!(
                        "{}:{}",
                        super::familiar_repository(&tag.repository),
                        tag.tag
                    )
                })
                .collect();
            last.id = row.id;
        }
        Ok(steps)
    }
}
