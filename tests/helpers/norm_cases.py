"""Every way exporters write a normalisation."""

from __future__ import annotations

from models.skeletons.net import Net

WIDTH = 12


def fused(net: Net, x: str) -> str:
    return net.layer_norm(x)


def mean(net: Net, x: str) -> str:
    return net.node("ReduceMean", x, axes=[-1])


def decomposed(net: Net, x: str, reciprocal: bool = False) -> str:
    """ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div or Reciprocal and Mul."""
    centred = net.node("Sub", x, mean(net, x))
    variance = mean(net, net.node("Pow", centred, net.scalar(2.0)))
    deviation = net.node("Sqrt", net.node("Add", variance, net.scalar(1e-5)))
    if reciprocal:
        y = net.node("Mul", centred, net.node("Reciprocal", deviation))
    else:
        y = net.node("Div", centred, deviation)
    y = net.node("Mul", y, net.vector(WIDTH, 0.7, 1.3, "gamma"))
    return net.node("Add", y, net.vector(WIDTH, -0.2, 0.2, "beta"))


def root_mean_square(net: Net, x: str) -> str:
    square = mean(net, net.node("Mul", x, x))
    y = net.node("Div", x, net.node("Sqrt", net.node("Add", square, net.scalar(1e-5))))
    return net.node("Mul", y, net.vector(WIDTH, 0.7, 1.3, "gamma"))


def native_rms(net: Net, x: str) -> str:
    """Renamed once the graph is built: only onnxruntime knows the operator."""
    return net.node("LayerNormalization", x, net.vector(WIDTH, 0.7, 1.3, "gamma"), axis=-1)


def skip(net: Net, x: str) -> str:
    vectors = [net.vector(WIDTH, 0.7, 1.3) for _ in range(3)]
    return net.node("SkipLayerNormalization", x, x, *vectors, domain="com.microsoft")


def skip_rms(net: Net, x: str) -> str:
    vectors = [net.vector(WIDTH, 0.7, 1.3) for _ in range(2)]
    op = "SkipSimplifiedLayerNormalization"
    return net.node(op, x, x, *vectors, domain="com.microsoft")


NORMS = {
    "fused": fused,
    "decomposed": decomposed,
    "reciprocal": lambda net, x: decomposed(net, x, reciprocal=True),
    "rms": root_mean_square,
    "native rms": native_rms,
    "skip": skip,
    "skip rms": skip_rms,
}
