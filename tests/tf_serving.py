"""What TensorFlow Serving does with a request before and after it calls a signature, by its documented formats."""

import base64
import json


def predict_by_rest(model, body: bytes) -> dict:
    """The answer to a request of the row format: `instances` is a list of inputs by name, `predictions` one of outputs.

    Bytes are `{"b64": TEXT}`. All outputs must have the size of the batch as their first dimension.
    """
    import tensorflow as tf

    request = json.loads(body)
    signature = model.signatures[request["signature_name"]]
    rows, (_, specs) = request["instances"], signature.structured_input_signature
    assert all(row.keys() == specs.keys() for row in rows), "every instance must have exactly the inputs of the signature"
    inputs = {}
    for name, spec in specs.items():
        values = [base64.b64decode(row[name]["b64"], validate=True) for row in rows]
        inputs[name] = tf.constant(values, spec.dtype)
    outputs = {name: value.numpy() for name, value in signature(**inputs).items()}
    assert {len(value) for value in outputs.values()} == {len(rows)}
    plain = {
        name: [one.decode() if isinstance(one, bytes) else one.tolist() for one in value] for name, value in outputs.items()
    }
    return {"predictions": [{name: values[row] for name, values in plain.items()} for row in range(len(rows))]}
