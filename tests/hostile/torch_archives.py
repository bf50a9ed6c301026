"""PyTorch archives of flashir's that somebody changed and sealed again: the digest is no secret."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashir_torch.archive import seal

Files = dict[str, bytes]
Change = Callable[[Files], object]
Json = dict[str, Any]


def rebuilt(whole: Path, path: Path, change: Change, compression: int = zipfile.ZIP_STORED) -> Path:
    """The artefact with other files in it, and a seal that fits: what somebody with a text editor could make."""
    with zipfile.ZipFile(whole) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with path.open("w+b") as file:
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        seal(file)
    return path


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "ran")


def find(files: Files, ending: str) -> str:
    """The name of the file that ends so."""
    return next(name for name in files if name.endswith(ending))


def in_json(ending: str, change: Callable[[Json], object]) -> Change:
    """A change of a JSON file."""

    def changed(files: Files) -> None:
        name = find(files, ending)
        content = json.loads(files[name])
        made = change(content)
        files[name] = made.encode() if isinstance(made, str) else json.dumps(content).encode()

    return changed


def in_program(change: Callable[[Json], object]) -> Change:
    """A change of the program."""
    return in_json("models/model.json", change)


def every(key: str, value: Any) -> Change:
    """Every value of that key becomes another."""
    return in_program(lambda content: _replace(content, key, value))


def _replace(content: Any, key: str, value: Any) -> None:
    if isinstance(content, dict):
        if key in content:
            content[key] = value
        for inner in content.values():
            _replace(inner, key, value)
    elif isinstance(content, list):
        for inner in content:
            _replace(inner, key, value)


def graph(program: Json) -> Json:
    """The graph of a program."""
    made: Json = program["graph_module"]["graph"]
    return made


_META = {
    "dtype": 7,
    "requires_grad": False,
    "device": {"type": "cpu", "index": None},
    "storage_offset": {"as_int": 0},
    "layout": 7,
}


def meta(*sizes: int) -> Json:
    """What a tensor of these sizes is said to be."""
    return {**_META, "sizes": [{"as_int": size} for size in sizes], "strides": [{"as_int": 1} for _ in sizes]}


def call(target: str, *inputs: tuple[str, Json], name: str = "added", **named: Json) -> Json:
    """A call of an operator."""
    arguments = [{"name": key, "arg": arg, "kind": 1} for key, arg in inputs]
    arguments += [{"name": key, "arg": arg, "kind": 2} for key, arg in named.items()]
    out = [{"as_tensor": {"name": name}}]
    return {"target": target, "inputs": arguments, "outputs": out, "metadata": {}, "name": name}


def calls(*nodes: Json, last: bool = False) -> Change:
    """These calls come first, or `last`; their results are said to be of one number."""

    def change(program: Json) -> None:
        made = graph(program)
        made["tensor_values"].update((node["name"], meta(1)) for node in nodes)
        made["nodes"] = [*made["nodes"], *nodes] if last else [*nodes, *made["nodes"]]

    return in_program(change)


def sized(target: str, *sizes: tuple[str, Json], name: str = "added") -> Json:
    """A call on sizes."""
    made = call(target, *sizes, name=name)
    return {**made, "outputs": [{"as_sym_int": {"as_name": name}}]}


def tensor(name: str) -> Json:
    """A tensor as an argument."""
    return {"as_tensor": {"name": name}}


def first_input(program: Json) -> str:
    """The name of the first input, a parameter."""
    made: str = graph(program)["inputs"][0]["as_tensor"]["name"]
    return made


def _full(*sizes: int, name: str = "added") -> Json:
    return call(
        "torch.ops.aten.full.default", ("size", {"as_ints": list(sizes)}), ("fill_value", {"as_float": 1.0}), name=name
    )


def _on_parameter(target: str) -> Change:
    return in_program(
        lambda program: graph(program)["nodes"].insert(0, call(target, ("self", tensor(first_input(program)))))
    )


def _renamed(program: Json, new: str) -> str:
    """The program as text, in which an input has another name."""
    text = json.dumps(program)
    return text.replace(json.dumps(first_input(program)), json.dumps(new))


def _spec(kind: str) -> str:
    leaf = {"type": None, "context": None, "children_spec": []}
    odd = {
        "an enum": {
            "type": "builtins.tuple",
            "context": '{"__enum__": true, "fqn": "antigravity:x"}',
            "children_spec": [leaf],
        },
        "a default": {
            "type": "collections.defaultdict",
            "context": json.dumps({"default_factory_module": "this", "default_factory_name": "x", "dict_context": []}),
            "children_spec": [leaf],
        },
        "a class": {"type": "transformers.DynamicCache", "context": "null", "children_spec": [leaf]},
    }[kind]
    return json.dumps([1, odd])


def actions(trace: Path) -> dict[str, Change]:
    """Changes that would make a program do something else than compute: write the file `trace`, most of them."""
    code = f"__import__('pathlib').Path({str(trace)!r}).write_text('ran')"
    path = {"as_string": str(trace)}
    bomb = pickle.dumps(Bomb(trace))

    def pickled(files: Files) -> None:
        config = find(files, "model_weights_config.json")
        content = json.loads(files[config])
        for entry in content["config"].values():
            entry["use_pickle"] = True
            files[find(files, entry["path_name"])] = bomb
        files[config] = json.dumps(content).encode()

    def constant(files: Files) -> None:
        entry = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        files[find(files, "model_constants_config.json")] = json.dumps({"config": {"x": entry}}).encode()

    def legacy(files: Files) -> None:
        """What an older loader takes, beside a program that fails."""
        every("expr_str", "s1 + 's2'")(files)
        files.update({"version": b"8.20", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": bomb})

    return {
        "a file is opened": calls(
            call(
                "torch.ops.aten.from_file.default",
                ("filename", path),
                ("shared", {"as_bool": True}),
                ("size", {"as_int": 16}),
            )
        ),
        "a file is loaded": calls(call("torch.load", ("", path))),
        "a repository is loaded": calls(call("torch.hub.load", ("", path), ("", path))),
        "a program of the system": calls(call("torch.os.system", ("", {"as_string": f"touch {trace}"}))),
        "python is evaluated": calls(call("torch.utils._config_module.exec", ("", {"as_string": code}))),
        "something is called": calls(call("_operator.call", ("", {"as_operator": "torch.os.getcwd"}))),
        "a method is called": calls(call("_operator.methodcaller", ("", {"as_string": "x"}))),
        "an extension": calls(call("#mine:x", ("", path))),
        "a library is loaded": calls(call("torch.ops.load_library", ("", path))),
        "another loop": calls(call("torch.ops.higher_order.cond", ("", {"as_bool": True}))),
        "something is printed": calls(call("torch.ops.aten._print.default", ("s", path))),
        "a random number": calls(call("torch.ops.aten.rand.default", ("size", {"as_ints": [1]}))),
        "a parameter is overwritten": _on_parameter("torch.ops.aten.relu_.default"),
        "a parameter is filled": _on_parameter("torch.ops.aten.zero_.default"),
        "a tensor is resized": _on_parameter("torch.ops.aten.resize_.default"),
        "a result is given": calls(
            _full(1), call("torch.ops.aten.relu.out", ("self", tensor("added")), out=tensor("added"), name="b")
        ),
        "uninitialised memory": calls(call("torch.ops.aten.empty.memory_format", ("size", {"as_ints": [1]}))),
        "views of any memory": calls(call("torch.ops.aten.as_strided.default", ("self", tensor("ids")))),
        "a custom object": calls(
            call("torch.ops.aten.relu.default", ("self", {"as_custom_obj": {"name": "x", "class_fqn": "y"}}))
        ),
        "another device": in_program(lambda program: _replace(program, "device", {"type": "cuda", "index": 0})),
        "no device": in_program(lambda program: _replace(program, "device", {"type": "meta", "index": None})),
        "expr_str": every("expr_str", code),
        "guards_code": every("guards_code", [code]),
        "a comment in a guard": every("guards_code", ["1#"]),
        "a string in a guard": every("guards_code", ["L['a\"'].size()[0] == 1"]),
        "a name of an input": in_program(lambda program: _renamed(program, f"x={code}")),
        "a name of a result": every("name", f"x={code}"),
        "names of arguments": every("forward_arg_names", [f"ids={code}"]),
        "a name of a parameter": every("parameter_name", f'x" + {code} + "'),
        "a module by name": every("fqn", "a b"),
        "nested by an enum": every("in_spec", _spec("an enum")),
        "nested by a default": every("in_spec", _spec("a default")),
        "nested by a class": every("out_spec", _spec("a class")),
        "what it reminds of": in_program(
            lambda program: graph(program)["nodes"][0]["metadata"].update(source_fn_stack="a,b(c)")
        ),
        "an output that is written": in_program(
            lambda program: program["graph_module"]["signature"]["output_specs"].append(
                {"user_input_mutation": {"arg": {"name": "ids"}, "user_input_name": "ids"}}
            )
        ),
        "a buffer": in_program(
            lambda program: program["graph_module"]["signature"]["input_specs"].append(
                {"buffer": {"arg": {"name": "ids"}, "buffer_name": "x", "persistent": True}}
            )
        ),
        "a verifier": every("verifiers", ["MINE"]),
        "a new field": in_program(lambda program: program.update(prologue=code)),
        "pickled weights": pickled,
        "constants": constant,
        "sample inputs": lambda files: files.update({find(files, "sample_inputs/model.pt"): bomb}),
        "another member": lambda files: files.update({"archive/data/constants/custom_obj_0": bomb}),
        "aoti": lambda files: files.update({"archive/data/aotinductor/model/x.so": b"\x7fELF"}),
        "a path out": lambda files: files.update({"archive/../../../x": b"x"}),
        "an older format": legacy,
    }


def _example(inputs: object) -> bytes:
    import torch

    content = io.BytesIO()
    torch.save(inputs, content)
    return content.getvalue()


def _huge_example(files: Files) -> None:
    import torch

    files[find(files, "sample_inputs/model.pt")] = _example(((torch.zeros(1).expand(10**15),), {}))


def _named_example(files: Files) -> None:
    import torch

    files[find(files, "sample_inputs/model.pt")] = _example(((), {"ids": torch.zeros(1, 1)}))


def _weights(change: Callable[[Json], object]) -> Change:
    def changed(content: Json) -> None:
        change(next(iter(content["config"].values())))

    return in_json("model_weights_config.json", changed)


def _grown(program: Json) -> None:
    """A size that is squared and squared again."""
    size = call("torch.ops.aten.sym_size.int", ("self", tensor("ids")), ("dim", {"as_int": 1}), name="z0")
    size["outputs"] = [{"as_sym_int": {"as_name": "z0"}}]
    nodes = [size]
    for n in range(60):
        last = {"as_sym_int": {"as_name": f"z{n}"}}
        nodes.append(sized("_operator.mul", ("a", last), ("b", last), name=f"z{n + 1}"))
    made = graph(program)
    made["nodes"] = [*nodes, *made["nodes"]]
    expression = {"as_expr": {"expr_str": "Symbol('s23', positive=True, integer=True)", "hint": {"as_int": 3}}}
    made["sym_int_values"].update((f"z{n}", expression) for n in range(61))


def _outer(program: Json) -> None:
    """Two vectors, each of which is small, and their product."""
    a, b = _full(10**7, 1, name="a"), _full(1, 10**7, name="b")
    made = graph(program)
    made["nodes"] = [
        a,
        b,
        call("torch.ops.aten.mul.Tensor", ("self", tensor("a")), ("other", tensor("b"))),
        *made["nodes"],
    ]
    made["tensor_values"].update((name, meta(1)) for name in ("a", "b", "added"))


def excesses() -> dict[str, Change]:
    """Changes that would take all time or memory."""
    huge = {"as_int": 10**15}
    return {
        "a tower of powers": every("expr_str", "9**9**9"),
        "a tower of powers by name": every("expr_str", "Pow(9, Pow(9, 9))"),
        "a power of 5000": every("expr_str", "10**5000"),
        "many digits": every("expr_str", "1" * 5000),
        "a shift": every("expr_str", "1 << 10000000000"),
        "brackets": every("expr_str", "(" * 2000 + "1" + ")" * 2000),
        "signs": every("expr_str", "-" * 4000 + "1"),
        "a product of sums": every("expr_str", "Mul(" + ", ".join(["Add(s1, s2, s3, s4, s5, s6, s7, s8)"] * 8) + ")"),
        "many choices": every("expr_str", "Max(s0, " * 40 + "s1" + ")" * 40),
        "a guard of powers": every("guards_code", ["9**9**9 == 1"]),
        "very many guards": every("guards_code", ["1 == 1"] * 100_000),
        "very many expressions": in_program(
            lambda program: graph(program)["sym_int_values"].update(
                (f"v{n}", {"as_expr": {"expr_str": f"s{n}", "hint": None}}) for n in range(20_000)
            )
        ),
        "an enormous name": in_program(
            lambda program: graph(program)["nodes"][0]["metadata"].update(torch_fn="x" * 10**6)
        ),
        "a number of a symbol": in_program(
            lambda program: program.update(range_constraints={"u999999999999": {"min_val": 0, "max_val": None}})
        ),
        "a hint of many digits": in_program(
            lambda program: json.dumps(program).replace('"as_int": 3', '"as_int": ' + "9" * 5000)
        ),
        "a program nested deeply": in_program(lambda program: '{"graph_module": ' + "[" * 10**6),
        "sizes that are multiplied": in_program(_grown),
        "a list that is multiplied": calls(sized("_operator.mul", ("a", {"as_ints": [1]}), ("b", huge))),
        "a tensor of 10^15": calls(_full(10**15)),
        "a tensor of 10^15 at the end": calls(_full(10**6, 10**9), last=True),
        "numbers up to 10^14": calls(call("torch.ops.aten.arange.default", ("end", {"as_int": 10**14}))),
        "a tensor that is widened": calls(
            _full(1, name="a"),
            call("torch.ops.aten.expand.default", ("self", tensor("a")), ("size", {"as_ints": [10**14]}), name="b"),
            call("torch.ops.aten.clone.default", ("self", tensor("b"))),
        ),
        "a tensor that is padded": calls(
            _full(1, name="a"),
            call("torch.ops.aten.constant_pad_nd.default", ("self", tensor("a")), ("pad", {"as_ints": [0, 10**14]})),
        ),
        "an outer product": in_program(_outer),
        "an example of 10^15": _huge_example,
        "a named example": _named_example,
        "a parameter of 10^15": _weights(
            lambda entry: entry["tensor_meta"].update(sizes=[huge], strides=[{"as_int": 0}])
        ),
        "a parameter beside its bytes": _weights(lambda entry: entry["tensor_meta"].update(storage_offset=huge)),
        "a parameter of no bytes": lambda files: files.update({find(files, "weight_0"): b""}),
        "a parameter of other strides": _weights(
            lambda entry: entry["tensor_meta"].update(strides=[{"as_int": 2**62}] * 2)
        ),
    }
