"""Where the encoders of an XDC run lie. Light: nothing is loaded here."""

import json
from pathlib import Path


def encoder_file(run: str, modality: str) -> str:
    """The `video` or `audio` encoder that the card of a run's folder, on this machine, names; both
    of one iteration. Where there is no such card, the name that it had before cards named it.

    Raises ValueError where the card cannot be read.
    """
    card = Path(run) / "card.json"
    try:
        named = json.loads(card.read_text(encoding="utf-8")).get("encoders") or {}
    except OSError:
        named = {}
    except (ValueError, AttributeError) as err:
        raise ValueError(f"{card}: not a run's card: {err}") from err
    return f"{run}/{named.get(modality, f'encoders/{modality}.safetensors')}"
