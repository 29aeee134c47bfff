"""What `dspex compile` does: a better version of a program, with demos, kept."""

import json
import os
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from dspex.modules.hosted import HostedBackend
from dspex.modules.optimizers import JournaledWork, ProgramModule, open_work
from dspex.modules.saved_state import save_program
from dspex.runtime.engine import Program
from dspex.runtime.journal import Journal
from dspex.worker.compile_job import (
    CompileData,
    CompileJob,
    CompileOptions,
    CompileResult,
    identity_of,
)
from dspex.worker.compile_report import CompileReport
from dspex.worker.models import open_lm
from dspex.worker.optimize_subject import (
    BadOptionError,
    Subject,
    load_program,
    make_budget,
    model_of,
    read_subject,
)
from dspex.worker.run_command import ALL_GOOD, SOME_FAILED


async def compile_program(options: CompileOptions) -> int:
    """Compile, print what was gained and how, and give the exit status.

    Raises:
        DspexError: the program, the data, the metric or the model cannot be used, or
            too many tries failed.
    """
    work = options.work
    options.check()
    program = await load_program(work.program, store=work.store)
    if options.save is None and (work.store is None or program is None):
        raise BadOptionError(
            "nowhere to keep the result: give --save FILE, or for a program file "
            "--store"
        )
    if options.save is not None:
        _check_save(options.save)
    model = partial(open_lm, base_url=work.base_url, timeout=work.timeout)
    async with (
        model(work.lm) as given,
        model(options.teacher_lm) as teacher,
        work.open_runtime(given) as runtime,
    ):
        subject = read_subject(work.program, program, runtime)
        data = CompileData.load(options, subject)
        lm = model_of(runtime)
        budget = make_budget(lm, work.budget_usd, work.price)
        hosted = runtime.backend("python")
        assert isinstance(hosted, HostedBackend)
        journal = None if work.store is None else runtime.journal
        async with AsyncExitStack() as stack:
            kept: JournaledWork | None = None
            if journal is not None:
                what = identity_of(options, subject, data, lm)
                name = f"compile {subject.name}"
                kept = await stack.enter_async_context(
                    open_work(journal, name=name, what=what)
                )
                budget.end(lm.name, kept.spent)
            job = CompileJob(
                options,
                subject,
                data,
                lm,
                budget,
                teacher=teacher,
                hosted=hosted,
                journal=kept,
            )
            result = await job.run()
            if kept is not None and result.stopped is None:
                await kept.finish(result.compiled.report.to_json())
        version = await _keep(options, subject, result, journal, kept)
    report = CompileReport(
        result,
        before=subject.program,
        version=version,
        run=None if kept is None else kept.id,
        save=options.save,
        budget=budget,
    )
    if work.as_json:
        report.print_json()
    else:
        report.print_text()
    return ALL_GOOD if result.stopped is None else SOME_FAILED


async def _keep(
    options: CompileOptions,
    subject: Subject,
    result: CompileResult,
    journal: Journal | None,
    kept: JournaledWork | None,
) -> str | None:
    """Keep what was compiled; give the version that it is in the store."""
    module = result.compiled.program
    if not isinstance(module, ProgramModule):
        assert options.save is not None
        save_program(module, options.save)
        return None
    assert subject.program is not None
    program = module.to_program()
    # First the store: a file that cannot be written after all takes nothing with it.
    version = None
    if journal is not None and kept is not None:
        version = await _keep_version(subject.program, program, result, journal, kept)
    if options.save is not None:
        body = program.model_dump(mode="json")
        options.save.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return version


def _check_save(path: Path) -> None:
    """Pass when the program can be written there, before anything is paid for.

    Raises:
        BadOptionError: it is a folder, in no folder, or may not be written.
    """
    if path.is_dir():
        raise BadOptionError(f"--save {path} is a folder: give a file in it")
    if not path.parent.is_dir():
        raise BadOptionError(f"--save {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadOptionError(f"--save {path}: it may not be written")


async def _keep_version(
    parent_program: Program,
    program: Program,
    result: CompileResult,
    journal: Journal,
    kept: JournaledWork,
) -> str:
    parent = await journal.save_program(
        program.name, parent_program.model_dump(mode="json"), made_by="file"
    )
    saved = await journal.save_program(
        program.name,
        program.model_dump(mode="json"),
        parent=parent.version,
        made_by=f"{result.compiled.report.optimizer}, run {kept.id}",
        scores=result.scores,
    )
    return f"{saved.name}@{saved.version}"
