//! The forward pass of BERT (Devlin et al., 2018), as the weights of sentence transformers are made for it.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module as _, VarBuilder, embedding, layer_norm, linear, ops};
use serde::Deserialize;

/// What a model's `config.json` says of its shape.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    /// Numbers of a vector.
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    /// Divides `hidden_size`.
    pub(super) num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Activation,
    /// Most word pieces of a text.
    pub(super) max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    #[serde(default)]
    #[expect(dead_code, reason = "another kind is refused when it is read")]
    position_embedding_type: Positions,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    Gelu,
    GeluNew,
    Relu,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Positions {
    #[default]
    Absolute,
}

/// An encoder that was read.
pub(super) struct Encoder {
    words: Embedding,
    positions: Embedding,
    kinds: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    attention: Attention,
    attended: Linear,
    attended_norm: LayerNorm,
    inner: Linear,
    activation: Activation,
    output: Linear,
    output_norm: LayerNorm,
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
    /// Numbers of a head.
    width: usize,
}

impl Encoder {
    /// # Errors
    /// Where a tensor is missing or has another shape.
    pub(super) fn read(weights: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let is_nested = weights.contains_tensor("bert.embeddings.word_embeddings.weight");
        let weights = if is_nested { weights.pp("bert") } else { weights.clone() };
        let (size, at) = (config.hidden_size, weights.pp("embeddings"));
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Layer::read(&weights.pp("encoder.layer").pp(layer), config))
            .collect::<Result<_>>()?;
        Ok(Self {
            words: embedding(config.vocab_size, size, at.pp("word_embeddings"))?,
            positions: embedding(config.max_position_embeddings, size, at.pp("position_embeddings"))?,
            kinds: embedding(config.type_vocab_size, size, at.pp("token_type_embeddings"))?,
            norm: layer_norm(size, config.layer_norm_eps, at.pp("LayerNorm"))?,
            layers,
        })
    }

    /// The outputs at the word pieces `ids`, a row a text; `mask` is 1 where there is a piece, and 0 where a row is filled up.
    ///
    /// # Errors
    /// Where a piece is not in the vocabulary, or there are too many.
    pub(super) fn forward(&self, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let length = u32::try_from(ids.dim(1)?).unwrap_or(u32::MAX);
        let positions = self.positions.forward(&Tensor::arange(0, length, &Device::Cpu)?)?;
        let summed = (self.words.forward(ids)? + self.kinds.forward(&ids.zeros_like()?)?)?;
        let mut hidden = self.norm.forward(&summed.broadcast_add(&positions)?)?;
        // What is filled up gets no attention: 0 for a piece, as low as can be for what is none.
        let away = mask.to_dtype(hidden.dtype())?.affine(-1.0, 1.0)?.affine(f64::from(f32::MIN), 0.0)?;
        let away = away.unsqueeze(1)?.unsqueeze(1)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &away)?;
        }
        Ok(hidden)
    }
}

impl Layer {
    fn read(at: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let (size, inner, epsilon) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = at.pp("attention.self");
        let read = |name| linear(size, size, attention.pp(name));
        Ok(Self {
            attention: Attention {
                query: read("query")?,
                key: read("key")?,
                value: read("value")?,
                heads: config.num_attention_heads,
                width: size / config.num_attention_heads,
            },
            attended: linear(size, size, at.pp("attention.output.dense"))?,
            attended_norm: layer_norm(size, epsilon, at.pp("attention.output.LayerNorm"))?,
            inner: linear(size, inner, at.pp("intermediate.dense"))?,
            activation: config.hidden_act,
            output: linear(inner, size, at.pp("output.dense"))?,
            output_norm: layer_norm(size, epsilon, at.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, hidden: &Tensor, away: &Tensor) -> Result<Tensor> {
        let attended = self.attended.forward(&self.attention.forward(hidden, away)?)?;
        let attended = self.attended_norm.forward(&(attended + hidden)?)?;
        let inner = self.inner.forward(&attended)?;
        let inner = match self.activation {
            Activation::Gelu => inner.gelu_erf()?,
            Activation::GeluNew => inner.gelu()?,
            Activation::Relu => inner.relu()?,
        };
        self.output_norm.forward(&(self.output.forward(&inner)? + attended)?)
    }
}

impl Attention {
    fn forward(&self, hidden: &Tensor, away: &Tensor) -> Result<Tensor> {
        let (texts, length, _) = hidden.dims3()?;
        let split = |part: &Linear| {
            let made = part.forward(hidden)?.reshape((texts, length, self.heads, self.width))?;
            made.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (split(&self.query)?, split(&self.key)?, split(&self.value)?);
        let scores = (query.matmul(&key.t()?)? / (self.width as f64).sqrt())?.broadcast_add(away)?;
        let mixed = ops::softmax(&scores, D::Minus1)?.matmul(&value)?;
        mixed.transpose(1, 2)?.contiguous()?.flatten_from(D::Minus2)
    }
}
