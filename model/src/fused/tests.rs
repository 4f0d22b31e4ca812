//! Each operation against the same composed of candle's, values and gradients, in f64; and what must not change a bit, in f32.

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::adapted::{Adapted, Layer};
use super::attention::Attend;
use super::cross_entropy::LogSoftmax;
use super::gate::SwishGate;
use super::mlp::MlpHalf;
use super::norm::Norm;
use super::rotary::Turn;
use crate::rotary::Pairs;

fn random(dims: &[usize], seed: f64) -> Result<Tensor> {
    let n: usize = dims.iter().product();
    let values: Vec<f64> = (0..n).map(|i| (i as f64 * seed + seed).sin()).collect();
    Tensor::from_vec(values, dims, &Device::Cpu)
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    (a - b)?.abs()?.max_all()?.to_scalar()
}

/// f64 rounds at 1e-16; sums here have at most some hundred terms.
const ERROR_MAX: f64 = 1e-12;

/// The same values, and the same gradients of all inputs along a direction.
#[track_caller]
fn check(
    inputs: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let run = |f: &dyn Fn(&[Tensor]) -> Result<Tensor>| -> Result<Vec<Tensor>> {
        let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
        let y = f(&vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>())?;
        let grads = (&y * random(y.dims(), 0.7)?)?.sum_all()?.backward()?;
        let grads = vars.iter().map(|var| grads.get(var).expect("a gradient").clone());
        Ok(std::iter::once(y).chain(grads).collect())
    };
    for (i, (got, expected)) in run(&fused).unwrap().iter().zip(run(&composed).unwrap()).enumerate() {
        let error = distance(got, &expected).unwrap();
        assert!(error < ERROR_MAX, "output 0, then gradients: {i}: error {error}");
    }
}

#[test]
fn norms_equal_the_composed_ones() -> Result<()> {
    let (x, weight, bias) = (random(&[2, 3, 37], 1.3)?, random(&[37], 0.9)?, random(&[37], 0.4)?);
    for (centred, affine) in [(false, true), (true, true), (true, false)] {
        let norm = Norm {
            centred,
            eps: 1e-3,
            weight: affine.then(|| weight.clone()),
            bias: (affine && centred).then(|| bias.clone()),
        };
        let composed = |x: &Tensor| -> Result<Tensor> {
            let level = if centred {
                x.mean_keepdim(D::Minus1)?
            } else {
                x.sum_keepdim(D::Minus1)?.affine(0.0, 0.0)?
            };
            let x = x.broadcast_sub(&level)?;
            let y = x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + 1e-3)?.sqrt()?)?;
            let y = if affine { y.broadcast_mul(&weight)? } else { y };
            if affine && centred {
                y.broadcast_add(&bias)
            } else {
                Ok(y)
            }
        };
        check(
            std::slice::from_ref(&x),
            |x| norm.clone().apply(&x[0]),
            |x| composed(&x[0]),
        );
    }
    Ok(())
}

#[test]
fn a_rotation_equals_the_composed_one_and_its_gradient_turns_back() -> Result<()> {
    let x = random(&[2, 3, 2, 8], 1.3)?;
    let angles = random(&[2, 1, 3, 3], 0.9)?; // rows differ, six of eight dimensions turn
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let by_head = |t: &Tensor| t.reshape((2, 3, 1, 3));
    for pairs in [Pairs::Halves, Pairs::Neighbours] {
        let turn = |x: &Tensor| {
            x.apply_op1(Turn {
                cos: cos.clone(),
                sin: sin.clone(),
                pairs,
                back: false,
            })
        };
        let composed = |x: &Tensor| -> Result<Tensor> {
            let index = |places: [u32; 3]| x.index_select(&Tensor::new(&places, &Device::Cpu)?, 3);
            let (first, second) = match pairs {
                Pairs::Halves => ([0, 1, 2], [3, 4, 5]),
                Pairs::Neighbours => ([0, 2, 4], [1, 3, 5]),
            };
            let (x1, x2) = (index(first)?, index(second)?);
            let (cos, sin) = (by_head(&cos)?, by_head(&sin)?);
            let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
            let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
            let turned = match pairs {
                Pairs::Halves => Tensor::cat(&[y1, y2], 3)?,
                Pairs::Neighbours => Tensor::stack(&[y1, y2], 4)?.reshape((2, 3, 2, 6))?,
            };
            Tensor::cat(&[turned, x.narrow(3, 6, 2)?.contiguous()?], 3)
        };
        check(std::slice::from_ref(&x), |x| turn(&x[0]), |x| composed(&x[0]));
    }
    Ok(())
}

#[test]
fn a_gate_equals_the_composed_one() -> Result<()> {
    let inputs = [random(&[2, 5], 1.3)?, random(&[2, 5], 0.9)?];
    check(&inputs, |x| x[0].apply_op2(&x[1], SwishGate), |x| x[0].silu()? * &x[1]);
    Ok(())
}

#[test]
fn an_adapted_layer_equals_its_two_halves() -> Result<()> {
    let weight = random(&[9, 33], 0.3)?;
    let inputs = [random(&[7, 33], 1.3)?, random(&[3, 33], 0.9)?, random(&[9, 3], 0.5)?];
    let fused = |x: &[Tensor]| {
        let layer = Layer {
            weight: weight.clone(),
            a: x[1].clone(),
            b: x[2].clone(),
            scale: 1.5,
        };
        Adapted::apply(layer, &x[0], (7, 9))
    };
    let composed = |x: &[Tensor]| {
        let low = x[0].matmul(&x[1].t()?)?;
        x[0].matmul(&weight.t()?)? + (low.matmul(&x[2].t()?)? * 1.5)?
    };
    check(&inputs, fused, composed);
    Ok(())
}

#[test]
fn a_feed_forward_half_equals_the_composed_one() -> Result<()> {
    let weights = [random(&[9, 33], 0.3)?, random(&[9, 33], 0.7)?, random(&[33, 9], 0.45)?];
    let norm = Norm {
        centred: false,
        eps: 1e-3,
        weight: Some(random(&[33], 0.9)?),
        bias: None,
    };
    let mut inputs = vec![random(&[2, 4, 33], 1.3)?];
    for (i, weight) in weights.iter().enumerate() {
        let (outputs, width) = weight.dims2()?;
        inputs.extend([
            random(&[3, width], 0.2 + i as f64)?,
            random(&[outputs, 3], 0.5 + i as f64)?,
        ]);
    }
    let layer = |x: &[Tensor], i: usize| Layer {
        weight: weights[i].clone(),
        a: x[1 + 2 * i].clone(),
        b: x[2 + 2 * i].clone(),
        scale: 1.5,
    };
    let fused = |x: &[Tensor]| MlpHalf::apply(norm.clone(), [layer(x, 0), layer(x, 1), layer(x, 2)], &x[0]);
    let composed = |x: &[Tensor]| -> Result<Tensor> {
        let adapted = |y: &Tensor, i: usize| Adapted::apply(layer(x, i), y, (2, 4, weights[i].dim(0)?));
        let normed = norm.clone().apply(&x[0])?;
        let gated = adapted(&normed, 0)?.apply_op2(&adapted(&normed, 1)?, SwishGate)?;
        &x[0] + adapted(&gated, 2)?
    };
    check(&inputs, fused, composed);
    Ok(())
}

#[test]
fn cross_entropy_equals_the_composed_one_and_skips_what_weighs_nothing() -> Result<()> {
    let targets = Tensor::new(&[[1u32, 0, 18], [4, 4, 2]], &Device::Cpu)?;
    let weights = Tensor::new(&[[1f64, 0.0, 0.5], [1.0, 2.0, 0.0]], &Device::Cpu)?;
    let composed = |logits: &Tensor| -> Result<Tensor> {
        let logprobs = candle_nn::ops::log_softmax(logits, D::Minus1)?;
        let picked = logprobs.gather(&targets.unsqueeze(2)?, 2)?.squeeze(2)?;
        (picked * &weights)?.sum_all()?.neg()? / weights.sum_all()?
    };
    let logits = (random(&[2, 3, 19], 1.3)? * 9.0)?;
    let loss = |logits: &Tensor| crate::loss::cross_entropy(logits, &targets, &weights);
    check(std::slice::from_ref(&logits), |x| loss(&x[0]), |x| composed(&x[0]));
    let rows = logits.reshape((6, 19))?;
    let logprobs = rows.apply_op1_no_bwd(&LogSoftmax)?;
    assert!(distance(&logprobs, &candle_nn::ops::log_softmax(&rows, 1)?)? < ERROR_MAX);
    let outside = crate::loss::cross_entropy(&logits, &(targets + 1.0)?, &weights).unwrap_err();
    assert!(
        outside.to_string().contains("target 19: the vocabulary has 19 tokens"),
        "{outside}"
    );
    Ok(())
}

#[test]
fn a_head_and_its_loss_equal_the_composed_ones_in_blocks() -> Result<()> {
    let (b, t, c, v) = (2, 150, 13, 19); // more rows than a block
    let (x, weight) = (random(&[b, t, c], 1.3)?, random(&[v, c], 0.9)?);
    let targets = Tensor::from_vec((0..300u32).map(|i| i % 19).collect(), (b, t), &Device::Cpu)?;
    let weights = Tensor::from_vec((0..300).map(|i| f64::from(i % 7) / 2.0).collect(), (b, t), &Device::Cpu)?;
    let linear = crate::layers::Linear::new(weight.clone(), None);
    let head = crate::projection::Projection::new("lm_head".to_owned(), linear);
    let mode = crate::mode::Mode::Eval;
    let after = |x: &Tensor| crate::loss::after_head(&head, x, (&targets, &weights), &mode);
    let composed = |x: &Tensor| {
        let logits = x.broadcast_matmul(&weight.t()?)?;
        crate::loss::cross_entropy(&logits, &targets, &weights)
    };
    check(std::slice::from_ref(&x), |x| after(&x[0]), |x| composed(&x[0]));
    assert_eq!(distance(&after(&x)?, &after(Var::from_tensor(&x)?.as_tensor())?)?, 0.0);
    // what weighs nothing is not looked at
    let hidden = weights.ne(0.0)?.to_dtype(DType::F64)?.unsqueeze(2)?;
    let without = x.broadcast_mul(&hidden)?;
    assert_eq!(distance(&after(&x)?, &after(&without)?)?, 0.0);
    Ok(())
}

/// Two prefix columns that all see, then text that sees itself and what is before it.
fn causal(t: usize, s: usize) -> Result<Tensor> {
    let visible = |i: usize, j: usize| j < s - t || j - (s - t) <= i;
    let mask = (0..t * s).map(|at| {
        if visible(at / s, at % s) {
            0.0
        } else {
            f64::from(f32::MIN)
        }
    });
    Tensor::from_vec(mask.collect(), (t, s), &Device::Cpu)
}

#[test]
fn attention_equals_the_composed_one() -> Result<()> {
    for (t, kv_heads, d) in [(1, 4, 16), (19, 2, 24), (35, 1, 7), (18, 2, 80)] {
        let (b, heads, s) = (2, 4, t + 2);
        let of_heads = random(&[heads, 1, s], 0.2)?;
        let mask = causal(t, s)?.broadcast_add(&of_heads)?; // (H, T, S), as with ALiBi
        let q = random(&[b, t, heads, d], 1.3)?;
        let (k, v) = (random(&[b, s, kv_heads, d], 0.9)?, random(&[b, s, kv_heads, d], 0.5)?);
        let fused = |x: &[Tensor]| {
            let mask = mask.clone();
            x[0].apply_op3(&x[1], &x[2], Attend { mask, scale: 0.3 })
        };
        let composed = |x: &[Tensor]| -> Result<Tensor> {
            let repeat = |x: &Tensor| -> Result<Tensor> {
                let x = x.unsqueeze(3)?.repeat((1, 1, 1, heads / kv_heads, 1))?;
                x.reshape((b, s, heads, d))?.transpose(1, 2)?.contiguous()
            };
            let (q, k, v) = (x[0].transpose(1, 2)?.contiguous()?, repeat(&x[1])?, repeat(&x[2])?);
            let scores = (q.matmul(&k.t()?)? * 0.3)?.broadcast_add(&mask)?;
            let y = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            y.transpose(1, 2)?.contiguous()
        };
        check(&[q, k, v], fused, composed);
    }
    Ok(())
}

#[test]
fn neither_hidden_columns_nor_other_rows_nor_other_queries_change_a_bit_of_attention() -> Result<()> {
    let (t, s, heads, d) = (21, 23, 2, 20);
    let f32s = |t: Tensor| t.to_dtype(DType::F32);
    let q = f32s(random(&[3, t, heads, d], 1.3)?)?;
    let (k, v) = (
        f32s(random(&[3, s, heads, d], 0.9)?)?,
        f32s(random(&[3, s, heads, d], 0.5)?)?,
    );
    let attend =
        |q: &Tensor, k: &Tensor, v: &Tensor, mask: Tensor| q.apply_op3_no_bwd(k, v, &Attend { mask, scale: 0.3 });
    let mask = f32s(causal(t, s)?)?;
    let together = attend(&q, &k, &v, mask.clone())?;
    // one row and one query, over keys that end with it
    for query in [0, 15, 16, 20] {
        let seen = s - t + query + 1;
        let row = |x: &Tensor, from, n| x.narrow(0, 1, 1)?.narrow(1, from, n)?.contiguous();
        let alone = attend(
            &row(&q, query, 1)?,
            &row(&k, 0, seen)?,
            &row(&v, 0, seen)?,
            Tensor::zeros((1, seen), DType::F32, &Device::Cpu)?,
        )?;
        let expected = row(&together, query, 1)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(alone.flatten_all()?.to_vec1::<f32>()?, expected, "query {query}");
    }
    // hidden columns between visible ones, as padding is
    let gap = |x: &Tensor| {
        Tensor::cat(
            &[x.narrow(1, 0, 5)?, (x.narrow(1, 0, 3)? + 7.0)?, x.narrow(1, 5, s - 5)?],
            1,
        )
    };
    let hidden = (Tensor::zeros((t, 3), DType::F32, &Device::Cpu)? + f64::from(f32::MIN))?;
    let mask = Tensor::cat(&[mask.narrow(1, 0, 5)?, hidden, mask.narrow(1, 5, s - 5)?], 1)?;
    let padded = attend(&q, &gap(&k)?, &gap(&v)?, mask)?;
    assert_eq!(
        padded.flatten_all()?.to_vec1::<f32>()?,
        together.flatten_all()?.to_vec1::<f32>()?
    );
    Ok(())
}
