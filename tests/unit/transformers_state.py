"""CLIP's tensors as the transformers library names and cuts them, written out by hand."""

import torch

BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def vision_state(tower, projection=True):
    """Return an open_clip image tower's tensors as a vision model of transformers has them."""
    ours, theirs = tower.state_dict(), {}
    theirs["vision_model.embeddings.class_embedding"] = ours["class_embedding"]
    theirs["vision_model.embeddings.patch_embedding.weight"] = ours["conv1.weight"]
    theirs["vision_model.embeddings.position_embedding.weight"] = ours["positional_embedding"]
    theirs["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    for kind in ("weight", "bias"):
        theirs[f"vision_model.pre_layrnorm.{kind}"] = ours[f"ln_pre.{kind}"]
        theirs[f"vision_model.post_layernorm.{kind}"] = ours[f"ln_post.{kind}"]
    theirs |= blocks(ours, len(tower.transformer.resblocks), "vision_model")
    if projection:
        theirs["visual_projection.weight"] = ours["proj"].T
    return copied(theirs)


def clip_state(clip):
    """Return an open_clip model's tensors as a CLIP model of transformers has them."""
    ours, theirs = clip.state_dict(), vision_state(clip.visual)
    theirs["text_model.embeddings.token_embedding.weight"] = ours["token_embedding.weight"]
    theirs["text_model.embeddings.position_embedding.weight"] = ours["positional_embedding"]
    theirs["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    theirs |= blocks(ours, len(clip.transformer.resblocks), "text_model")
    for kind in ("weight", "bias"):
        theirs[f"text_model.final_layer_norm.{kind}"] = ours[f"ln_final.{kind}"]
    theirs["text_projection.weight"] = ours["text_projection"].T
    theirs["logit_scale"] = ours["logit_scale"]
    return copied(theirs)


def blocks(ours, layers, tower):
    theirs = {}
    for layer in range(layers):
        block, to = f"transformer.resblocks.{layer}", f"{tower}.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = ours[f"{block}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                theirs[f"{to}.self_attn.{name}.{kind}"] = part
            for name, source in BLOCK.items():
                theirs[f"{to}.{name}.{kind}"] = ours[f"{block}.{source}.{kind}"]
    return theirs


def copied(state):
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}
