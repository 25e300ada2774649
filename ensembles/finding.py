"""What the lint says: a finding, and the table of rules behind it.

Each rule was put to tritonserver 2.51 with `--disable-auto-complete-config`; `tests/repositories` holds the proof.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["load", "serve"]
Severity = Literal["error", "warning"]


class Rule(NamedTuple):
    """One rule. `load`: the server refuses the model. `serve`: it reports READY, and a request shows the harm."""

    kind: Kind
    sentence: str
    severity: Severity = "error"


RULES = {
    # The folder and its files.
    "TY101": Rule("load", "config.pbtxt is missing or protobuf cannot read it."),
    "TY102": Rule("load", "The name in config.pbtxt is not the name of the folder."),
    "TY103": Rule("load", "No backend follows from backend, platform and files, or they contradict each other."),
    "TY104": Rule("load", "The version policy leaves no version folder to load."),
    "TY105": Rule("load", "A version folder lacks the file that its backend loads."),
    "TY106": Rule("serve", "The version policy names a version that has no folder; it is left out.", "warning"),
    "TY107": Rule("serve", "A template's placeholder is left unfilled; the model reads it as it stands."),
    "TY108": Rule("load", "The file that an output's label_filename names does not exist."),
    # One model's own declaration.
    "TY201": Rule("load", "An input or output lacks its name, data_type or dims."),
    "TY202": Rule("load", "A dimension is neither positive nor -1."),
    "TY203": Rule("load", "dims and reshape hold different numbers of elements."),
    "TY204": Rule("serve", "An input is declared twice; every request is refused as one input short."),
    "TY205": Rule("load", "A preferred batch size is outside 1 to max_batch_size."),
    "TY206": Rule("load", "max_batch_size is negative."),
    "TY207": Rule("load", "The response cache is on for a decoupled or sequence-batched model."),
    "TY208": Rule("load", "A warm-up sample's inputs are not the model's."),
    "TY209": Rule(
        "load", "A warm-up sample's batch is larger than the model takes; the server refuses it, or crashes."
    ),
    "TY210": Rule("load", "An instance group lists GPUs though its kind has none."),
    # The wiring of ensembles.
    "TY301": Rule("load", "An ensemble has no steps, or a step lacks its model, input_map or output_map."),
    "TY302": Rule("load", "A step names a model that the repository does not hold."),
    "TY303": Rule("load", "A step names a version that its model does not serve; left out, it means version 0."),
    "TY304": Rule("load", "An input_map names an input that the step's model does not have."),
    "TY305": Rule("load", "A required input of a step's model is not mapped."),
    "TY306": Rule("load", "An output_map names an output that the step's model does not have."),
    "TY307": Rule("load", "A step reads an ensemble tensor that nothing writes."),
    "TY308": Rule("load", "Two outputs write the same ensemble tensor."),
    "TY309": Rule("serve", "A step writes an ensemble input; a request feeds itself for ever and fells the server."),
    "TY310": Rule("load", "No step writes an ensemble output."),
    "TY311": Rule("load", "No step reads an ensemble input."),
    "TY312": Rule("load", "A step writes an ensemble tensor that nothing reads."),
    "TY313": Rule("load", "Steps wait for each other's outputs in a circle."),
    "TY314": Rule("load", "The two ends of an ensemble tensor have different data types."),
    "TY315": Rule("load", "The two ends of an ensemble tensor have different shapes."),
    "TY316": Rule("load", "An ensemble allows larger batches than one of its steps."),
    "TY317": Rule("serve", "A batching ensemble meets a non-batching model; only batch size 1 is right.", "warning"),
    "TY318": Rule("load", "Ensembles contain each other in a circle."),
    "TY319": Rule("load", "A step or the ensemble's outputs join tensors from both sides of a decoupled model."),
    "TY320": Rule("load", "An ensemble carries a field that ensembles may not have, or a model carries steps."),
    "TY321": Rule("serve", "An optional ensemble input feeds a required one; leaving it out fails.", "warning"),
    "TY322": Rule("serve", "Two steps read or write one ensemble tensor with shapes that no request can fit."),
}


@dataclass(frozen=True)
class Finding:
    """One broken rule in one file; `file` is relative to the repository."""

    file: Path
    model: str
    rule: str
    severity: Severity
    kind: Kind
    fact: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.model}: {self.rule}: {self.fact}; {self.fix}"


def finding(model: str, rule: str, fact: str, fix: str) -> Finding:
    """Return a finding about the config.pbtxt of `model`, with the rule's own kind and severity."""
    said = RULES[rule]
    return Finding(Path(model) / "config.pbtxt", model, rule, said.severity, said.kind, fact, fix)
