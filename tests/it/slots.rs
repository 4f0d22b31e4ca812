//! Slots that are refilled: whoever shares them, and whenever it came, a request gets what it gets alone, bit for bit.
//!
//! Place: on the small golden decoders, whose own forward is tested against transformers elsewhere, and on the shipped bundle.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, IndexOp, Tensor};
use model::architecture::Architecture;
use model::bundle::Bundle;
use model::decoder::Decoder;
use model::fusion::Fusion;
use model::generate::{DecodeOptions, Finish, Generated, generate_ragged};
use model::init;
use model::meit::{Drafted, EcgInput};
use model::refill::DraftRequest;
use model::slots::{Request, SlotLimits, Slots};
use model::weights::Weights;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::rig::{device, recordings, root};

/// One small golden decoder of each way to place positions, and one with windows.
const BACKBONES: [&str; 5] = [
    "gpt2-inverse-layer",
    "llama-llama3-rope",
    "gptj-full-rotary",
    "bloom-six-heads",
    "gpt_neo-local",
];
const TOKENS: usize = 3;
const REQUESTS: usize = 9;
const LIMITS: SlotLimits = SlotLimits { slots: 3, tokens: 24 };

fn kinds() -> [Fusion; 4] {
    let layers = Some(BTreeSet::from([1]));
    [
        Fusion::default(),
        Fusion::Prefix { layers },
        Fusion::Input,
        Fusion::CrossAttention { every: 2 },
    ]
}

/// A decoder in f32, and requests of different lengths.
struct Case {
    name: String,
    decoder: Decoder,
    prompts: Vec<Vec<u32>>,
    /// (requests, P, E).
    ecgs: Tensor,
}

impl Case {
    fn new(backbone: &str, fusion: &Fusion) -> Self {
        let dir = root().join("tests/golden/decoders").join(backbone);
        let architecture = Architecture::read(&dir.join("config.json")).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let ecg_dim = match fusion {
            Fusion::Prefix { .. } => architecture.head_dim,
            _ => 7,
        };
        let random = |shape: &[usize], rng: &mut ChaCha8Rng| {
            let n = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|_| init::standard_normal(rng)).collect();
            Tensor::from_vec(values, shape, &device()).unwrap()
        };
        let own = init::fusion(fusion, &architecture, ecg_dim, &mut rng).unwrap();
        // away from their start, or the gates would stay shut
        let own = own
            .into_iter()
            .map(|(name, t)| (name, (&t + (random(t.dims(), &mut rng) * 0.3).unwrap()).unwrap()));
        let base = Weights::load_checkpoint(&dir, DType::F32, &device()).unwrap();
        let weights = Weights::new(base.tensors().unwrap().into_iter().chain(own).collect());
        let decoder = Decoder::load(&weights, &architecture).unwrap();
        let prompts = (0..REQUESTS).map(|_| {
            let length = rng.random_range(1..8);
            let token = |_| rng.random_range(0..architecture.vocab_size as u32);
            (0..length).map(token).collect()
        });
        Self {
            name: format!("{backbone} {fusion:?}"),
            prompts: prompts.collect(),
            ecgs: random(&[REQUESTS, TOKENS, ecg_dim], &mut rng),
            decoder: decoder.with_fusion(fusion, &weights.pp("fusion"), ecg_dim).unwrap(),
        }
    }

    fn alone(&self, request: usize, stop: Option<u32>, options: &DecodeOptions) -> Generated {
        let prefix = self.decoder.prefix(&self.ecgs.narrow(0, request, 1).unwrap()).unwrap();
        let prompt = [self.prompts[request].as_slice()];
        generate_ragged(&self.decoder, &prompt, Some(&prefix), stop, options, &|| {})
            .unwrap()
            .remove(0)
    }

    /// Greedy tokens by a cache that grows, without slots.
    fn stepped(&self, request: usize, tokens: usize) -> Vec<u32> {
        let prefix = self.decoder.prefix(&self.ecgs.narrow(0, request, 1).unwrap()).unwrap();
        let mut cache = self.decoder.cache();
        let (mut ids, mut next) = (Vec::new(), self.prompts[request].clone());
        while ids.len() < tokens {
            let step = Tensor::new(next.as_slice(), &device()).unwrap().unsqueeze(0).unwrap();
            let logits = self.decoder.forward_last(&step, Some(&prefix), &mut cache).unwrap();
            let token: u32 = logits.i(0).unwrap().argmax(0).unwrap().to_scalar().unwrap();
            ids.push(token);
            next = vec![token];
        }
        ids
    }

    fn request(&self, key: usize, options: &DecodeOptions) -> Request<'_, '_> {
        Request {
            key,
            prompt: &self.prompts[key],
            tokens_max: options.tokens_max,
            adapter: None,
        }
    }

    /// All requests through slots, that are refilled with as many at a time as `come` says.
    fn refilled(
        &self,
        stop: Option<u32>,
        options: &DecodeOptions,
        mut come: impl FnMut(usize) -> usize,
    ) -> BTreeMap<usize, Generated> {
        let mut slots = Slots::new(self.decoder.clone(), LIMITS, stop, options.clone());
        let mut ended = BTreeMap::new();
        // the last first, so that a row is not where its name says
        let mut waiting: Vec<usize> = (0..REQUESTS).collect();
        while ended.len() < REQUESTS {
            let n = come(slots.free()).min(slots.free()).min(waiting.len());
            let some = waiting.split_off(waiting.len() - n);
            let requests: Vec<Request> = some.iter().map(|&key| self.request(key, options)).collect();
            let index: Vec<u32> = some.iter().map(|&key| key as u32).collect();
            if n > 0 {
                let index = Tensor::from_vec(index, n, &device()).unwrap();
                let ecgs = self.ecgs.index_select(&index, 0).unwrap();
                slots.admit(&requests, Some(&ecgs)).unwrap();
            }
            slots.step().unwrap();
            assert_eq!(slots.running(), slots.keys().count());
            for (key, generated) in slots.ended() {
                assert!(
                    ended.insert(key, generated).is_none(),
                    "{} request {key} twice",
                    self.name
                );
            }
        }
        assert_eq!(slots.free(), LIMITS.slots);
        ended
    }
}

fn bits(generated: &Generated) -> (&[u32], Vec<u32>, Finish) {
    let logprobs = generated.logprobs.iter().map(|p| p.to_bits()).collect();
    (&generated.ids, logprobs, generated.finish)
}

/// Requests one by one, as many as fit, and as chance has it.
#[track_caller]
fn check(case: &Case, stop: Option<u32>, options: &DecodeOptions) -> BTreeSet<usize> {
    let alone: Vec<Generated> = (0..REQUESTS)
        .map(|request| case.alone(request, stop, options))
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut by_chance = move |_| rng.random_range(0..3);
    let mut comings: [&mut dyn FnMut(usize) -> usize; 3] = [&mut |_| 1, &mut |free| free, &mut by_chance];
    for (way, come) in comings.iter_mut().enumerate() {
        let ended = case.refilled(stop, options, come);
        for (key, generated) in &ended {
            assert_eq!(
                bits(generated),
                bits(&alone[*key]),
                "{} way {way} request {key}",
                case.name
            );
        }
    }
    alone.iter().map(|generated| generated.ids.len()).collect()
}

#[test]
fn requests_that_come_and_go_get_the_tokens_and_probabilities_that_each_gets_alone() {
    let options = DecodeOptions {
        tokens_max: 8,
        ..DecodeOptions::default()
    };
    for backbone in BACKBONES {
        for fusion in kinds() {
            let case = Case::new(backbone, &fusion);
            // a token that ends some of them early and others not
            let stop = case.alone(0, None, &options).ids[2];
            let lengths = check(&case, Some(stop), &options);
            assert!(lengths.len() > 1, "{}: all of length {lengths:?}", case.name);
            let stepped = case.stepped(1, options.tokens_max);
            assert_eq!(case.alone(1, None, &options).ids, stepped, "{}", case.name);
        }
    }
}

#[test]
fn requests_that_are_sampled_draw_from_their_own_streams() {
    let options = DecodeOptions {
        tokens_max: 6,
        temperature: 0.8,
        top_p: 0.9,
        seed: 3,
    };
    check(&Case::new("bloom-six-heads", &Fusion::default()), Some(3), &options);
}

#[test]
fn what_does_not_fit_is_refused_by_its_numbers_and_changes_nothing() {
    let case = Case::new("llama-llama3-rope", &Fusion::Input);
    let options = DecodeOptions {
        tokens_max: 4,
        ..DecodeOptions::default()
    };
    let mut slots = Slots::new(case.decoder.clone(), LIMITS, None, options.clone());
    let ecg = case.ecgs.narrow(0, 0, 1).unwrap();
    let first = case.request(0, &options);
    slots.admit(&[first], Some(&ecg)).unwrap();
    let long = vec![1; LIMITS.tokens - TOKENS - options.tokens_max + 1];
    let error = slots
        .admit(
            &[Request {
                key: 7,
                prompt: &long,
                ..first
            }],
            Some(&ecg),
        )
        .unwrap_err();
    let expected = "request 7 needs 25 tokens (ECG, prompt and 4 new ones), a slot has 24";
    assert_eq!(error.to_string(), expected);
    let many = [first; 3];
    let error = slots
        .admit(&many, Some(&case.ecgs.narrow(0, 0, 3).unwrap()))
        .unwrap_err();
    assert_eq!(error.to_string(), "3 requests for 2 free slots");
    assert!(slots.admit(&[Request { prompt: &[], ..first }], Some(&ecg)).is_err());
    let error = slots.admit(&[first], None).unwrap_err();
    assert!(format!("{error:?}").contains("without one"), "{error:?}");
    while slots.running() > 0 {
        slots.step().unwrap();
    }
    let ended = slots.ended();
    assert_eq!((ended.len(), ended[0].0), (1, 0));
    assert_eq!(bits(&ended[0].1), bits(&case.alone(0, None, &options)));
}

/// Recordings and what is left of them without some leads: twelve different ECGs.
fn ecgs() -> Vec<EcgInput> {
    let whole = recordings().into_iter().map(|recording| {
        let record = ecg::wfdb::read(&recording.header).unwrap();
        EcgInput::from(&ecg::dsp::analyse(
            &record.context().unwrap(),
            &ecg::dsp::DspConfig::default(),
        ))
    });
    let whole: Vec<EcgInput> = whole.collect();
    let without = |n: usize| {
        let mut ecg = whole[n % whole.len()].clone();
        let samples = ecg.millivolts.len();
        ecg.millivolts[samples - n * samples / 16..].fill(0.0);
        ecg
    };
    (0..12).map(without).collect()
}

#[test]
fn the_shipped_bundle_drafts_in_slots_what_it_drafts_alone() {
    let bundle = Bundle::load(&root().join("model/bundle"), &Device::Cpu).unwrap();
    let (drafting, options, ecgs) = (bundle.drafting(), DecodeOptions::default(), ecgs());
    let limits = SlotLimits { slots: 5, tokens: 512 };
    let mut slots = drafting.refill(limits, &options).unwrap();
    let mut drafts: BTreeMap<usize, Drafted> = BTreeMap::new();
    let mut waiting = ecgs.iter().enumerate();
    while drafts.len() < ecgs.len() {
        let free = slots.free();
        let requests = waiting.by_ref().take(free).map(|(key, ecg)| DraftRequest {
            key,
            ecg,
            adapter: None,
        });
        slots.admit(&requests.collect::<Vec<_>>()).unwrap();
        drafts.extend(slots.step().unwrap());
    }
    assert!(slots.is_empty());
    let alone = ecgs
        .iter()
        .map(|ecg| drafting.draft(std::slice::from_ref(ecg), &options).unwrap().remove(0));
    let alone: Vec<Drafted> = alone.collect();
    let lengths: BTreeSet<u32> = alone.iter().map(|draft| draft.tokens).collect();
    assert!(lengths.len() > 1, "all of length {lengths:?}");
    assert_eq!(drafts.into_values().collect::<Vec<_>>(), alone);
}
