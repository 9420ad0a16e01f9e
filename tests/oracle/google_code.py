"""Google's own model code, restored from checkpoints as its programs restore them.

    python google_code.py JOBS

JOBS is a JSON file: a list of the fields of `Job`. It is a program, because Google's code needs
Keras 2, and a process has one Keras.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FIXTURES = Path(__file__).parents[2] / "fixtures"
INPUTS = ("input_ids", "input_mask", "segment_ids")
WAYS = ("saver", "folder", "init_checkpoint")  # the last one changes the graph


class Job(NamedTuple):
    """A model to build, and what to restore it from."""

    inputs: str  # a safetensors file with the three inputs
    config: str
    family: str  # bert, albert
    head: str
    labels: int
    restores: list[tuple[str, str, str]]  # a way, a prefix (or folder), a file for the outputs


def restore(way: str, place: str, variables: list[Any], session: Any, modeling: Any) -> Any:
    """Restore the variables. Gives the training step, if that is read."""
    from google_bert import tf

    if way == "saver":
        tf.train.Saver(variables).restore(session, place)
    elif way == "folder":  # as Estimator
        step = tf.train.get_or_create_global_step()
        tf.train.Saver([*variables, step]).restore(session, tf.train.latest_checkpoint(place))
        return session.run(step)
    else:  # as model_fn_builder of the run_*.py programs
        assignments, names = modeling.get_assignment_map_from_checkpoint(variables, place)
        assert {v.op.name for v in variables} <= {*names}
        tf.train.init_from_checkpoint(place, assignments)
        session.run(tf.global_variables_initializer())
    return -1


def main(jobs: list[Job]) -> None:
    sys.path.insert(0, str(FIXTURES))
    import google_bert
    import make_albert
    from google_bert import tf
    from safetensors.numpy import load_file

    for job in jobs:
        config = json.loads(Path(job.config).read_text())
        given = load_file(job.inputs)
        inputs = {name: given[name] for name in INPUTS}
        if job.family == "bert":
            graph, places, outputs = google_bert.build(config, job.head, job.labels)
            feed = dict(zip(places.values(), inputs.values(), strict=True))
            modeling = google_bert.modeling
        else:
            with tf.Graph().as_default() as graph:
                outputs = make_albert.build(config, job.head, inputs, job.labels)
            feed, modeling = {}, make_albert.modeling
        with graph.as_default():
            variables = tf.trainable_variables()
            if job.head == "none":  # modeling.py always makes a pooler
                del outputs["pooled"]
                variables = [v for v in variables if not v.op.name.startswith("bert/pooler/")]
            for way, place, out in job.restores:
                with google_bert.session(graph) as session:
                    step = restore(way, place, variables, session, modeling)
                    np.savez(out, **session.run(outputs, feed), step=step)


if __name__ == "__main__":
    main([Job(*fields) for fields in json.loads(Path(sys.argv[1]).read_text())])
