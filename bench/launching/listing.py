"""What there is: the text of ``--list``."""

from __future__ import annotations

from pydantic.fields import FieldInfo

from bench import data, methods
from bench.launching import benchmarks, studies
from bench.launching.request import PARTS
from bench.spec import Study, TrainConfig
from bench.spec.aliases import ALIASES


def listing() -> str:
    """Studies, benchmarks and methods with what there is to set: the text of ``--list``."""
    lines = ["studies (--study):"]
    lines += [f"  {name:<18} {studies.headline(name)}" for name in studies.names()]
    lines += ["", "benchmarks (--benchmark):"]
    lines += [f"  {name:<18} {benchmark.summary}" for name, benchmark in benchmarks.BENCHMARKS.items()]
    lines += ["", f"data sets (--source, --target): {', '.join(data.names())}"]
    lines += ["", f"backbones (--backbone): tiny, any of timm's ViTs with a class token, or {', '.join(ALIASES)}"]
    lines += ["", "methods, with their fields (search.<field>, fixed.<field>):"]
    for name in methods.names():
        lines.append(f"  {name:<18} {methods.summary(name)}")
        lines += [f"    {field:<16} {_field(about)}" for field, about in methods.fields(name).items()]
    lines += ["", "study fields (<field>, or <field>.<name> where it is a group):"]
    for field, about in Study.model_fields.items():
        if about.description:
            lines.append(f"    {field:<16} {_told(about)}")
    lines += ["", "training fields (train.<field>, or searched under their own name):"]
    lines += [f"    {field:<16} {_told(about)}" for field, about in TrainConfig.model_fields.items()]
    lines += ["", "benchmark fields (<part>.<field>):"]
    for part, fields in PARTS.items():
        lines += [f"    {f'{part}.{field}':<26} {_told(about)}" for field, about in fields.model_fields.items()]
    return "\n".join(lines)


def _told(about: FieldInfo) -> str:
    """What a field says of itself, and its default if it has one that is a value."""
    plain = not about.is_required() and about.default_factory is None and about.default != ()
    return f"{about.description}" + (f" (default: {about.default})" if plain else "")


def _field(about: methods.FieldDoc) -> str:
    return f"{about.doc} (default: {about.default})"
