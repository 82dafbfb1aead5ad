"""How the views of a service are defined, as digests: what rows depend on beyond names and types."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from recstill.data.code import digest_of_tree

if TYPE_CHECKING:
    from feast import FeatureStore

    from recstill.features.featureset import FeatureSet

_PATHS = re.compile(r'\b(?:uri|path): "([^"]+)"')


def definitions_of(store: FeatureStore, features: FeatureSet, home: Path) -> dict[str, dict[str, str]]:
    """Return {view: {definition, sources}}: digests of how each view of a service is defined, and the paths that it reads.

    A fingerprint knows names and types; rows also depend on the time to live, the source and its columns. Paths of the home
    count as the same wherever it lies. A file that recstill did not build is in the definition by its content.
    """
    found = {}
    for view in features.views:
        spec = store.get_feature_view(view.name).to_proto().spec
        spec.batch_source.ClearField("meta")  # when it was applied, which decides nothing
        lines = str(spec).replace(str(home), "HOME").splitlines()
        text = "\n".join(sorted(lines))  # tags come in any order
        sources = sorted(set(_PATHS.findall(text)))
        content = [digest_of_tree(Path(path)) for path in sources if not path.startswith("HOME") and Path(path).exists()]
        definition = hashlib.sha256("\n".join([text, *content]).encode()).hexdigest()
        found[view.name] = {"definition": definition, "sources": " ".join(sources)}
    return found
