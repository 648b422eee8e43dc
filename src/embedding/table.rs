//! Static tables of word pieces, as model2vec writes them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use model2vec_rs::model::StaticModel;

/// The cosine below which the table in the binary calls two texts unrelated.
pub(super) const FLOOR: f32 = 0.18;

/// A table that was read.
#[derive(Debug)]
pub(super) struct Table {
    model: StaticModel,
}

impl Table {
    /// # Errors
    /// Says what is wrong with the files.
    pub(super) fn read(tokenizer: &[u8], weights: &[u8], config: &[u8]) -> Result<Self, String> {
        let read =
            catch_unwind(AssertUnwindSafe(|| StaticModel::from_bytes(tokenizer, weights, config, None)));
        match read {
            Ok(Ok(model)) => Ok(Self { model }),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err("reading it panicked".to_owned()),
        }
    }

    /// Numbers of a vector.
    pub(super) fn dimension(&self) -> usize {
        self.model.dim()
    }

    /// Of length 1, or all zeros where the table knows none of the words.
    pub(super) fn embed(&self, text: &str) -> Vec<f32> {
        let vector = catch_unwind(AssertUnwindSafe(|| self.model.encode_single(text)));
        vector.unwrap_or_else(|_| vec![0.0; self.dimension()])
    }
}
