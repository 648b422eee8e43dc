//! Sentence transformers of the BERT kind, such as all-MiniLM-L6-v2: the mean of the outputs at a text's word pieces, at
//! length 1, as sentence-transformers computes it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use tokenizers::{Encoding, Tokenizer, TruncationParams};

use super::encoder::{Config, Encoder};

/// The cosine below which such a model calls two texts unrelated.
pub(super) const FLOOR: f32 = 0.18;
/// Word pieces of a text that count, with the two that stand around it: what all-MiniLM-L6-v2 was made with.
const PIECES_MAX: usize = 256;
/// Texts that go through the model at once.
const BATCH_TEXTS: usize = 32;

/// A transformer that was read.
pub(super) struct Transformer {
    model: Encoder,
    tokenizer: Tokenizer,
    dimension: usize,
}

impl std::fmt::Debug for Transformer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transformer").field("dimension", &self.dimension).finish_non_exhaustive()
    }
}

impl Transformer {
    /// # Errors
    /// Says what is wrong with the files.
    pub(super) fn read(config: &[u8], weights: Vec<u8>, tokenizer: &[u8]) -> Result<Self, String> {
        let config: Config = serde_json::from_slice(config)
            .map_err(|error| format!("its config.json describes no such transformer: {error}"))?;
        if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err("its config.json has another number of attention heads than fits its size".to_owned());
        }
        let mut tokenizer =
            Tokenizer::from_bytes(tokenizer).map_err(|error| format!("its tokenizer.json: {error}"))?;
        // What the file says of both is for other uses; texts of a batch are padded here.
        let truncation = TruncationParams {
            max_length: PIECES_MAX.min(config.max_position_embeddings),
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| format!("its tokenizer.json: {error}"))?
            .with_padding(None);
        let read = |error: candle_core::Error| format!("its model.safetensors: {error}");
        let weights =
            VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).map_err(read)?;
        let model = Encoder::read(&weights, &config).map_err(read)?;
        Ok(Self { model, tokenizer, dimension: config.hidden_size })
    }

    /// Numbers of a vector.
    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }

    /// One vector a text, of any length; all zeros where the model fails at it.
    pub(super) fn embed(&self, texts: &[String]) -> Vec<Vec<f32>> {
        let mut pieces: Vec<(usize, Encoding)> = Vec::with_capacity(texts.len());
        for (place, text) in texts.iter().enumerate() {
            match catch_unwind(AssertUnwindSafe(|| self.tokenizer.encode_fast(text.as_str(), true))) {
                // A text without a word keeps its zeros.
                Ok(Ok(encoding))
                    if encoding.get_special_tokens_mask().iter().all(|special| *special == 1) => {}
                Ok(Ok(encoding)) => pieces.push((place, encoding)),
                Ok(Err(error)) => tracing::debug!(%error, "a text has no vector"),
                Err(_) => tracing::debug!("the tokenizer panicked; a text has no vector"),
            }
        }
        // Texts of like length go together, so that little is padded.
        pieces.sort_by_key(|(_, encoding)| encoding.len());
        let mut vectors = vec![vec![0.0; self.dimension]; texts.len()];
        for batch in pieces.chunks(BATCH_TEXTS) {
            let encodings: Vec<&Encoding> = batch.iter().map(|(_, encoding)| encoding).collect();
            if let Some(made) = self.run(&encodings) {
                for ((place, _), vector) in batch.iter().zip(made) {
                    vectors[*place] = vector;
                }
            }
        }
        vectors
    }

    fn run(&self, batch: &[&Encoding]) -> Option<Vec<Vec<f32>>> {
        match catch_unwind(AssertUnwindSafe(|| self.forward(batch))) {
            Ok(Ok(vectors)) => return Some(vectors),
            Ok(Err(error)) => tracing::warn!(%error, "the embedding model failed; some texts have no vector"),
            Err(_) => tracing::warn!("the embedding model panicked; some texts have no vector"),
        }
        None
    }

    fn forward(&self, batch: &[&Encoding]) -> candle_core::Result<Vec<Vec<f32>>> {
        let longest = batch.iter().map(|encoding| encoding.len()).max().unwrap_or(0);
        let padded = |part: fn(&Encoding) -> &[u32]| {
            let numbers: Vec<u32> = batch
                .iter()
                .flat_map(|encoding| {
                    let numbers = part(encoding);
                    numbers.iter().copied().chain(std::iter::repeat_n(0, longest - numbers.len()))
                })
                .collect();
            Tensor::from_vec(numbers, (batch.len(), longest), &Device::Cpu)
        };
        let (ids, mask) = (padded(Encoding::get_ids)?, padded(Encoding::get_attention_mask)?);
        let output = self.model.forward(&ids, &mask)?;
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(D::Minus1)?;
        let sum = output.broadcast_mul(&mask)?.sum(1)?;
        sum.broadcast_div(&mask.sum(1)?.clamp(1e-9, f64::MAX)?)?.to_vec2()
    }
}
