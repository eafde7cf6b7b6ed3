"""The platform whose forms the operations take."""

import jax

# Networks call the operations through flax, which does not know of platforms, so that it cannot be
# an argument. Caches of traces tell its values apart.
traced_for = jax.make_user_context(None)


def platform() -> str:
    """Return the platform that a function is being traced for: ``cpu``, ``gpu`` or ``tpu``.

    It is that of JAX's default device, but inside ``with traced_for(platform):``, for programs that
    run elsewhere.
    """
    return str(traced_for.value or jax.default_backend())
