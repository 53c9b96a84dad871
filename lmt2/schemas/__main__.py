"""`python -m lmt2.schemas` writes the schema files anew."""

import json
from pathlib import Path

from lmt2.schemas import schemas

for name, schema in schemas().items():
    (Path(__file__).parent / name).write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
