#!/usr/bin/env python3
"""Export tiny random BERT and RoBERTa models and the bert-score package's values on them.

usage: export_bertscore.py PAIRS.tsv OUT_DIR      PAIRS.tsv: hypothesis<TAB>reference per line; the first 24 are used
writes OUT_DIR/{bert,roberta}/{config.json,model.safetensors,tokenizer.json}, baseline.tsv, and values.json:
  pairs, and for each of "bert/1", "bert/2", "roberta/1", "roberta/2", "roberta/2/rescaled" a [P, R, F] for each pair
The models have random weights (seed 1) and a tokenizer trained on the pairs; one pair has an empty hypothesis.
needs: torch, transformers, tokenizers, bert-score
"""
import json, os, sys, tempfile

import bert_score
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, BertTokenizer, RobertaConfig, RobertaModel, RobertaTokenizer

LAYERS, SIZE = 2, dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)


def bert(texts, out):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(s, t.token_to_id(s)) for s in ("[CLS]", "[SEP]")])
    config = BertConfig(vocab_size=t.get_vocab_size(), max_position_embeddings=40, **SIZE)
    t.save(os.path.join(out, "tokenizer.json"))
    with tempfile.TemporaryDirectory() as d:
        slow = BertTokenizer(t.model.save(d)[0], model_max_length=40)
    return save(slow, BertModel(config, add_pooling_layer=False), out)


def roberta(texts, out):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    config = RobertaConfig(vocab_size=t.get_vocab_size(), max_position_embeddings=42, type_vocab_size=1,
                           pad_token_id=1, bos_token_id=0, eos_token_id=2, layer_norm_eps=1e-5, **SIZE)
    t.save(os.path.join(out, "tokenizer.json"))
    with tempfile.TemporaryDirectory() as d:
        # the package uses the slow class, and with it a space before the first word
        slow = RobertaTokenizer(*t.model.save(d), model_max_length=40)
    return save(slow, RobertaModel(config, add_pooling_layer=False), out)


def save(tokenizer, model, out):
    # the default initialization leaves all tokens nearly alike; wider weights tell them apart
    for p in model.parameters():
        if p.dim() > 1: torch.nn.init.normal_(p, std=0.4)
    model.eval(); model.save_pretrained(out, safe_serialization=True)
    for extra in os.listdir(out):
        if extra not in ("config.json", "model.safetensors", "tokenizer.json"): os.remove(os.path.join(out, extra))
    return tokenizer, model


def values(tokenizer, model, layer, pairs):
    """bert_score.score, with a model that is not on a hub.

    One pair a batch: in larger ones the package counts padding as similarity 0, which is more than some tokens of a random
    model have; with trained models all similarities are above 0 and the batch makes no difference.
    """
    from collections import defaultdict
    from bert_score.utils import bert_cos_score_idf
    model.encoder.layer = torch.nn.ModuleList(list(model.encoder.layer)[:layer])
    idf = defaultdict(lambda: 1.0); idf[tokenizer.sep_token_id] = 0; idf[tokenizer.cls_token_id] = 0
    out = bert_cos_score_idf(model, [r for h, r in pairs], [h for h, r in pairs], tokenizer, idf, device="cpu", batch_size=1)
    return out.tolist()


def main():
    pairs = [line.rstrip("\n").split("\t") for line in open(sys.argv[1])][:23]
    pairs.append(["", pairs[0][1]])
    pairs.append([" ".join(h for h, r in pairs[:5]), pairs[1][1]])  # longer than the model's positions
    out, texts = sys.argv[2], [t for p in pairs for t in p]
    golden = {"pairs": pairs}
    for name, make in (("bert", bert), ("roberta", roberta)):
        torch.manual_seed(1)
        folder = os.path.join(out, name); os.makedirs(folder, exist_ok=True)
        tokenizer, model = make(texts, folder)
        for layer in range(LAYERS, 0, -1):
            golden[f"{name}/{layer}"] = values(tokenizer, model, layer, pairs)
    base = {1: (0.31, 0.32, 0.315), 2: (0.41, 0.42, 0.415)}
    with open(os.path.join(out, "baseline.tsv"), "w") as f:
        f.write("LAYER,P,R,F\n" + "".join(f"{k},{p},{r},{x}\n" for k, (p, r, x) in base.items()))
    b = torch.tensor(base[2])
    golden["roberta/2/rescaled"] = ((torch.tensor(golden["roberta/2"]) - b) / (1 - b)).tolist()
    json.dump(golden, open(os.path.join(out, "values.json"), "w"))
    means = {k: [round(x, 4) for x in torch.tensor(v).mean(0).tolist()] for k, v in golden.items() if k != "pairs"}
    means = {k: torch.tensor(v).mean(0).tolist() for k, v in golden.items() if k != "pairs"}
    print(bert_score.__version__, {k: [round(x, 4) for x in v] for k, v in means.items()})


if __name__ == "__main__":
    main()
