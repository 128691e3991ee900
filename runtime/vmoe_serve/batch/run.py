"""The shards of a job through Ray Data."""

from __future__ import annotations

import logging
import pickle
import zlib
from collections.abc import Iterator, Sequence

import ray.data

from vmoe_serve.batch.job import Shard
from vmoe_serve.batch.pictures import Pictures
from vmoe_serve.batch.shards import Written
from vmoe_serve.batch.worker import Worker, WorkerPlan
from vmoe_serve.ray_session import reason
from vmoe_tools.command_line import CommandError


def write_shards(plan: WorkerPlan, pictures: Pictures, shards: Sequence[Shard], replicas: int) -> Iterator[Written]:
    """Has shards answered and written by replicas, on the Ray that this process is connected to.

    What goes through Ray is which pictures a shard has, never the pictures: replicas read and write files themselves. So a
    shard that Ray does again, after a replica has died, is written again, whole and the same.

    Args:
        plan: what all replicas are told.
        pictures: of the whole job.
        shards: those to write; never empty.
        replicas: processes, each with an engine; not more are started than there are shards.

    Yields:
        Each shard when it is finished, in any order.

    Raises:
        CommandError: a replica can't be started, or a shard can't be written.
    """
    _silence()
    # Pickled, as names of files may be no UTF-8, which Arrow's text has to be. All of them lie in Ray's memory at once.
    parts = ((shard, pictures.part(shard.first, shard.stop)) for shard in shards)
    rows = [{"shard": zlib.compress(pickle.dumps(part))} for part in parts]
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        fn_constructor_args=(plan,),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=plan.threads or 1,
        # One shard at a time: at the end none waits behind another while a replica has nothing to do.
        compute=ray.data.ActorPoolStrategy(size=min(replicas, len(rows)), max_tasks_in_flight_per_actor=1),
    )
    try:
        for row in written.iter_rows():
            done = pickle.loads(row["written"])
            if isinstance(done, str):
                raise CommandError(done)
            yield done
    except CommandError:
        raise
    except Exception as error:  # Ray raises whatever its parts raise
        raise CommandError(f"the job stopped: {reason(error)}") from None


def _silence() -> None:
    """This command says itself how far it is."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
