"""What `fit` shows: the answer, the sum, the ways out; for programs the same as one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.planning.fit.words import arithmetic, place, reason, size

if TYPE_CHECKING:
    from provisioner.fitting import CardVerdict
    from provisioner.planning.fit.judge import FitReport


def as_dict(report: FitReport, cards: Sequence[CardVerdict] = ()) -> dict[str, object]:
    """Return the judgement as plain values."""
    request, laid, entry = report.request, report.laid, report.request.subject.entry
    found: dict[str, object] = {
        "model": request.subject.name,
        "engine": str(request.engine.name),
        "quantization": request.subject.quantization,
        "context": request.context,
        "parallel": request.parallel,
        "kv_dtype": request.cache_type,
        "gpus": [{"name": gpu.name, "usable_bytes": gpu.usable_bytes} for gpu in request.gpus],
        "weights_bytes": laid.weights_bytes,
        "weights_are_measured": request.subject.is_measured,
        "kv_bytes_per_token": report.kv_bytes_per_token,
        "kv_bytes": laid.cache_bytes,
        "overhead_bytes": laid.overhead_bytes,
        "total_bytes": laid.total_bytes,
        "per_gpu_bytes": laid.fullest_bytes,
        "room_per_gpu_bytes": laid.room_bytes,
        "fits": report.fits,
        "verdict": report.verdict.value,
        "gpus_needed": report.gpus_needed,
        "largest_context": report.largest_context,
        "ram_needed_bytes": report.ram_needed_bytes,
        "reason": reason(report),
        "changes": [{"text": change.text, "option": change.option} for change in report.changes],
    }
    if entry is not None:
        found["catalogue"] = {
            "name": entry.name,
            "repository": entry.repository,
            "licence": entry.licence,
            "gated": entry.is_gated,
            "sources": list(entry.sources),
            "unverified": entry.unverified,
        }
    if cards:
        found["cards"] = [
            {
                "card": each.card,
                "fits": each.fits,
                "gpus_needed": each.gpus_needed,
                "largest_context": each.largest_context,
            }
            for each in cards
        ]
    return found


def fit_lines(report: FitReport, cards: Sequence[CardVerdict] = ()) -> list[str]:
    """Return the judgement as lines for a person."""
    request, entry = report.request, report.request.subject.entry
    subject = request.subject
    called = f" = {entry.repository}" if entry is not None and entry.repository != subject.name else ""
    lines = [f"{subject.name}{called}, {subject.quantization}, served by {request.engine.name}"]
    if entry is not None:
        gate = "; gated: its licence must be accepted with the token's account" if entry.is_gated else ""
        lines.append(f"  licence: {entry.licence}{gate}")
        if entry.unverified:
            lines.append(f"  not confirmed by a primary source: {entry.unverified}")
    lines.append("")
    for name, count, words in arithmetic(report):
        amount = size(count) if count is not None else ""
        lines.append(f"  {name:14} {amount:>10}  {words}".rstrip())
    lines.append("")
    lines.append(f"{report.verdict.value}{_where(report)}: {reason(report)}")
    if report.changes:
        lines.append("what would make it fit, the least change first:")
        lines += [f"  {change.text}  ({change.option})" for change in report.changes]
    lines += [_card_line(each) for each in cards]
    return lines


def _where(report: FitReport) -> str:
    if report.verdict.value not in ("fits", "fits with less context", "does not fit"):
        return ""
    return f" on {place(report)}" if report.request.gpus else f" in {place(report)}"


def _card_line(each: CardVerdict) -> str:
    if each.fits:
        return f"  {each.card:18} fits, up to {each.largest_context} tokens"
    more = f"{each.gpus_needed} of them do" if each.gpus_needed else "16 of them do not either"
    less = f"; one holds {each.largest_context} tokens" if each.largest_context >= 1024 else ""
    return f"  {each.card:18} does not hold it, {more}{less}"
