"""One device mesh, and where parameters and batches lie on it; knows no parameter name."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from conformer_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(config, devices=None) -> Mesh:
    """Mesh with the axes `data`, `fsdp` and `tensor` over all devices.

    Along the batch the devices of process 0 come first, then those of process 1, and so on: each
    process reads exactly the rows of its own devices.

    Args:
      config: config.sharding; one size may be -1 and takes what is left.
      devices: all of them by default.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or `tensor` reaches over
        several processes.
    """
    devices = list(jax.devices() if devices is None else devices)
    count = len(devices)
    sizes = [config[axis] for axis in AXES]
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) == 1 and known > 0 and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    if min(sizes) < 1 or np.prod(sizes) != count:
        raise UserError(
            f"config.sharding {dict(zip(AXES, sizes, strict=True))} does not cover {count} "
            f"device(s): the product must be {count}, and one size may be -1"
        )
    # XLA places what no sharding says; make_mesh's default, Explicit axes, would have us say all.
    types = (AxisType.Auto,) * len(AXES)
    mesh = jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)
    if in_process_order(mesh.devices):
        return mesh
    # The order that suits the interconnect best does not suit the rows.
    devices.sort(key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(devices).reshape(sizes), AXES, axis_types=types)
    if not in_process_order(mesh.devices):
        raise UserError(
            f"config.sharding.tensor = {sizes[-1]} reaches over several processes: it must divide "
            f"the {jax.local_device_count()} device(s) of each"
        )
    return mesh


def in_process_order(devices) -> bool:
    """Whether the processes own equal, consecutive stretches of the batch.

    Args:
      devices: array [data, fsdp, tensor] of objects with a `process_index`.
    """
    owners = np.vectorize(lambda device: device.process_index)(devices)
    owners = owners.reshape(-1, owners.shape[-1])
    first = owners[:, 0]
    processes, counts = np.unique(first, return_counts=True)
    return bool(
        (owners == first[:, None]).all()
        and (np.diff(first) >= 0).all()
        and (counts == counts[0]).all()
        and (processes == np.arange(len(processes))).all()
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of every array of a batch is split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def partition_spec(mesh: Mesh, leaf) -> PartitionSpec:
    """How an array lies on the mesh, by its shape alone.

    The last axis is split over `tensor`, the largest of the others over `fsdp`. An axis whose
    length the mesh axis does not divide, and anything with fewer than two axes, stays whole:
    splitting it would save next to nothing.
    """
    spec = [None] * leaf.ndim
    if leaf.ndim > 1:
        tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
        if tensor > 1 and leaf.shape[-1] % tensor == 0:
            spec[-1] = "tensor"
        free = [i for i in range(leaf.ndim) if not spec[i] and leaf.shape[i] % fsdp == 0]
        if fsdp > 1 and free:
            spec[max(free, key=lambda i: leaf.shape[i])] = "fsdp"
    return PartitionSpec(*spec)


def state_shardings(mesh: Mesh, state):
    """Tree of the shardings of a tree of arrays or shapes."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, partition_spec(mesh, leaf)), state)


def check_batch_size(mesh: Mesh, size: int, field: str, passes: int = 1) -> None:
    """Raises UserError where a batch does not split evenly.

    Args:
      mesh: its axes data and fsdp split the batch.
      size: clips of a batch, over all processes.
      field: of the config, for the message.
      passes: config.train.accumulate.
    """
    parts = int(np.lcm(mesh.shape["data"] * mesh.shape["fsdp"] * passes, jax.process_count()))
    if passes < 1 or size % parts:
        raise UserError(
            f"{field} = {size} is not divisible by {parts}, the parts it is split into by devices, "
            f"processes and config.train.accumulate"
        )


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding):
    """This process's rows [B / processes, ...] to global arrays [B, ...] on the devices."""
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
