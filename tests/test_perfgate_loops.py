"""Inner loops read from disassembly: of sources compiled here, and of texts as objdump writes them."""

import shutil
import subprocess
import textwrap

import pytest

from gradfold.perfgate.loops import Difference, Loop, compare, loops_in, loops_of

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("objdump") is None, reason="needs gcc and objdump, which are not installed here"
)
FLAGS = ["-c", "-O2", "-mavx512f", "-mfma", "-fno-tree-vectorize", "-fno-unroll-loops", "-ffp-contract=off"]
DOT = """
    #include <immintrin.h>
    {before}
    __m512 dot(const float* x, const float* w, long n) {{
      __m512 sum = _mm512_setzero_ps();
      for (long i = 0; i < n; ++i) {{
        {extra}
        sum = _mm512_fmadd_ps(_mm512_set1_ps(x[i]), _mm512_loadu_ps(w + 16 * i), sum);
      }}
      return sum;
    }}
"""

# Statements of no instruction and of one. Any asm changes how gcc steps through a loop, so both builds have one.
NONE, ONE = 'asm volatile("");', 'asm volatile("clc");'


def of_zmm(*counted):
    """A loop whose FMAs are all of whole zmm registers."""
    return Loop(*counted, 64 * counted[1])


@pytest.fixture
def build(tmp_path):
    """build(source, name) is the object file of a C source, in a folder of its own so that the names of two builds are the same."""

    def compiled(source, name="kernel", folder="build"):
        (tmp_path / folder).mkdir(exist_ok=True)
        source_file, object_file = tmp_path / folder / f"{name}.c", tmp_path / folder / f"{name}.o"
        source_file.write_text(textwrap.dedent(source))
        done = subprocess.run(["gcc", *FLAGS, "-o", object_file, source_file], capture_output=True, text=True)
        if done.returncode != 0 and "unrecognized command-line option" in done.stderr:
            pytest.skip("gcc here does not compile for AVX-512")
        assert done.returncode == 0, done.stderr
        return object_file

    return compiled


def text(*lines, name="f", start=0x40):
    """A function as objdump writes it, an instruction every four bytes."""
    head = ["", "k.o:     file format elf64-x86-64", "", "Disassembly of section .text:", "", f"{start:016x} <{name}>:"]
    return "\n".join([*head, *(f"  {start + 4 * k:x}:\t{line}" for k, line in enumerate(lines)), ""])


FMA = "vfmadd231ps (%rsi,%rax,4),%zmm1,%zmm0"


@needs_compiler
def test_a_clean_loop(build):
    loops = loops_of([build(DOT.format(before="", extra=""))])
    assert list(loops) == ["kernel.o::dot#0"]
    loop = loops["kernel.o::dot#0"]
    assert (loop.fmas, loop.loads, loop.stores, loop.spills, loop.calls) == (1, 2, 0, 0, 0)
    assert 5 <= loop.instructions <= 8  # two loads, one of them in the FMA, two steps at most, the comparison, the jump


@needs_compiler
def test_one_instruction_more_is_seen_and_is_all_that_is_seen(build):
    base = loops_of([build(DOT.format(before="", extra=NONE), folder="base")])
    head = loops_of([build(DOT.format(before="", extra=ONE), folder="head")])
    (key,) = base
    assert head[key].instructions == base[key].instructions + 1
    (difference,) = compare(base, head, 0.03)
    assert (difference.function, difference.what, difference.regression) == ("kernel.o::dot", "instructions", True)
    assert difference.head - difference.base == pytest.approx(1)
    assert compare(head, base, 0.03) == []
    assert compare(base, base, 0.0) == []


@needs_compiler
def test_the_threshold_is_relative(build):
    base = loops_of([build(DOT.format(before="", extra=NONE), folder="base")])
    head = loops_of([build(DOT.format(before="", extra=ONE), folder="head")])
    growth = 1 / base["kernel.o::dot#0"].instructions
    assert len(compare(base, head, growth * 0.99)) == 1
    assert compare(base, head, growth * 1.01) == []


@needs_compiler
@pytest.mark.parametrize("accumulators", [8, 40])
def test_more_accumulators_than_registers_spill(build, accumulators):
    adds = "".join(f"acc{k} = _mm512_fmadd_ps(_mm512_set1_ps(x[{k}]), wv, acc{k});\n" for k in range(accumulators))
    source = (
        "#include <immintrin.h>\nvoid tile(const float* x, const float* w, long n, float* out) {\n"
        + "".join(f"__m512 acc{k} = _mm512_setzero_ps();\n" for k in range(accumulators))
        + f"for (long i = 0; i < n; ++i, x += {accumulators}, w += 16) {{ const __m512 wv = _mm512_loadu_ps(w);\n{adds} }}\n"
        + "".join(f"_mm512_storeu_ps(out + {16 * k}, acc{k});\n" for k in range(accumulators))
        + "}\n"
    )
    (loop,) = loops_of([build(source)]).values()
    assert loop.fmas == accumulators
    assert loop.calls == 0
    if accumulators == 8:
        assert (loop.spills, loop.stores, loop.loads) == (0, 0, 9)
    else:
        assert loop.spills >= 2 * (40 - 32)  # each that has no register is read and written
        assert loop.stores >= 8
        assert loop.loads >= 41 + 8


@needs_compiler
def test_a_call_is_seen(build):
    before = "void outside(void);"
    base = loops_of([build(DOT.format(before=before, extra=""), folder="base")])
    head = loops_of([build(DOT.format(before=before, extra="outside();"), folder="head")])
    assert head["kernel.o::dot#0"].calls == 1
    assert head["kernel.o::dot#0"].spills > 0  # no vector register outlives a call
    assert {d.what for d in compare(base, head, 0.03)} == {"instructions", "loads", "spills", "calls"}


@needs_compiler
def test_of_nested_loops_only_the_inner_one_is_counted(build):
    source = """
        #include <immintrin.h>
        void outer(const float* x, const float* w, long n, long m, float* out) {
          for (long j = 0; j < m; ++j) {
            __m512 sum = _mm512_loadu_ps(out + 16 * j);
            for (long i = 0; i < n; ++i) sum = _mm512_fmadd_ps(_mm512_set1_ps(x[i]), _mm512_loadu_ps(w + 16 * i), sum);
            _mm512_storeu_ps(out + 16 * j, _mm512_fmadd_ps(sum, sum, sum));
          }
        }
    """
    (loop,) = loops_of([build(source)]).values()
    assert (loop.fmas, loop.loads, loop.stores) == (1, 2, 0)


@needs_compiler
def test_folders_and_patterns_name_their_objects_alike(build, tmp_path):
    for folder in ("a/csrc", "b/csrc"):
        (tmp_path / folder).mkdir(parents=True)
        build(DOT.format(before="", extra=""), folder=folder)
    by_folder = [loops_of([tmp_path / folder]) for folder in ("a", "b")]
    by_pattern = [loops_of([tmp_path / folder / "**" / "k*.o"]) for folder in ("a", "b")]
    assert list(by_folder[0]) == list(by_folder[1]) == ["csrc/kernel.o::dot#0"]
    assert by_pattern == by_folder
    with pytest.raises(ValueError, match="two objects of the name 'kernel.o'"):
        loops_of([tmp_path / "a/csrc/kernel.o", tmp_path / "b/csrc/kernel.o"])


@needs_compiler
def test_another_machine_is_refused(tmp_path):
    (tmp_path / "k.c").write_text("int f(void) { return 0; }")
    if subprocess.run(["gcc", "-m32", "-c", "-o", tmp_path / "k.o", tmp_path / "k.c"], capture_output=True).returncode != 0:
        pytest.skip("gcc here does not compile for a second machine")
    with pytest.raises(ValueError, match=r"k\.o' in format elf32-i386, wanted elf64-x86-64"):
        loops_of([tmp_path / "k.o"])


@needs_compiler
def test_what_is_no_object_is_refused(tmp_path):
    (tmp_path / "text.o").write_text("not an object")
    with pytest.raises(ValueError, match=r"text\.o'"):
        loops_of([tmp_path / "text.o"])
    for nothing in (tmp_path / "absent.o", tmp_path / "*.obj"):
        with pytest.raises(ValueError, match="holds or matches none"):
            loops_of([nothing])


@pytest.mark.parametrize(
    "name",
    [
        "f",
        "void gf::(anonymous namespace)::tile<gf::F32, 3, {lambda(int)#1}>(float const* const*, long)::{lambda()#2}::operator()() const",
        "auto f<(lanes)3>(x<y<int> >, std::function<void (int, long)>) [clone .constprop.0]",
        "operator<(a const&, b const&)",
    ],
)
def test_demangled_names_survive(name):
    loops = loops_in(text("xor    %eax,%eax", FMA, "inc    %rax", f"jne    44 <{name}+0x4>", "ret", name=name))
    assert loops == {f"{name}#0": of_zmm(3, 1, 1, 0, 0, 0)}
    base = {f"k.o::{key}": loop for key, loop in loops.items()}
    (difference,) = compare(base, {key: of_zmm(4, 1, 1, 0, 0, 0) for key in base}, 0.03)
    assert difference.function == f"k.o::{name}"


@pytest.mark.parametrize(
    ("line", "loads", "stores", "spills"),
    [
        ("vmovups (%rdi),%zmm0", 1, 0, 0),
        ("vmovups %zmm0,(%rdi)", 0, 1, 0),
        ("vmovups %zmm0,(%rdi){%k1}", 0, 1, 0),
        ("vmovups %zmm0,0x40(%rdi,%rax,4)", 0, 1, 0),
        ("vmovaps 0x40(%rsp),%zmm0", 1, 0, 1),
        ("vmovaps %ymm0,-0x20(%rsp)", 0, 1, 1),
        ("vmulps 0x80(%rsp),%zmm1,%zmm2", 1, 0, 1),
        ("vmovaps 0x40(%rsp,%rax,4),%zmm0", 1, 0, 0),  # an array
        ("vmovaps -0x40(%rbp),%zmm0", 1, 0, 0),  # without a frame %rbp is any register
        ("mov    0x8(%rsp),%rax", 1, 0, 0),  # no vector
        ("vbroadcastss (%rdi,%rax,4),%zmm0", 1, 0, 0),
        ("vaddps (%rdi){1to16},%zmm1,%zmm0", 1, 0, 0),
        ("vaddps 0x1234(%rip),%zmm1,%zmm0        # 40 <x#1>", 1, 0, 0),
        ("vextractf32x4 $0x1,%zmm0,(%rdi)", 0, 1, 0),
        ("cmp    %rax,(%rdi)", 1, 0, 0),
        ("add    $0x1,(%rdi)", 1, 1, 0),
        ("lea    0x8(%rdi),%rdi", 0, 0, 0),
        ("prefetcht0 (%rdi)", 0, 0, 0),
        ("{evex} vmovups (%rdi),%zmm0", 1, 0, 0),
    ],
)
def test_what_an_instruction_reads_and_writes(line, loads, stores, spills):
    assert loops_in(text("vfmadd231ps %zmm2,%zmm1,%zmm0", line, "jne    40 <f>")) == {"f#0": of_zmm(3, 1, loads, stores, spills, 0)}


def test_with_a_frame_rbp_is_the_stack():
    body = ["push   %rbp", "mov    %rsp,%rbp", FMA, "vmovaps -0x40(%rbp),%zmm0", "jne    48 <f+0x8>"]
    assert loops_in(text(*body)) == {"f#0": of_zmm(3, 1, 2, 0, 1, 0)}


@pytest.mark.parametrize("nop", ["nop", "nopw   0x0(%rax,%rax,1)", "data16 cs nopw 0x0(%rax,%rax,1)", "xchg   %ax,%ax"])
def test_padding_is_not_counted(nop):
    assert loops_in(text(FMA, nop, "jne    40 <f>")) == {"f#0": of_zmm(2, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("fma", ["vfmadd132ps", "vfnmadd213pd", "vfmsub231ss", "vfnmsub231sd", "vfmaddsub132ps"])
def test_all_fmas_are_fmas(fma):
    (loop,) = loops_in(text(f"{fma} %xmm2,%xmm1,%xmm0", "vmulps %xmm0,%xmm1,%xmm2", "jmp    40 <f>")).values()
    assert loop.fmas == 1


def test_loops_without_an_fma_only_on_request():
    disassembly = text("vaddps %zmm0,%zmm1,%zmm1", "jne    40 <f>", FMA, "call   80 <g>", "jne    48 <f+0x8>")
    assert loops_in(disassembly) == {"f#0": of_zmm(3, 1, 1, 0, 0, 1)}
    assert list(loops_in(disassembly, every=True).values()) == [of_zmm(2, 0, 0, 0, 0, 0), of_zmm(3, 1, 1, 0, 0, 1)]


def test_forward_jumps_and_other_functions_jumps_are_no_loops():
    assert loops_in(text(FMA, "jne    4c <f+0xc>", "jmp    0 <g>", "ret")) == {}


A, B, C = of_zmm(40, 24, 11, 0, 0, 0), of_zmm(23, 12, 7, 0, 0, 0), of_zmm(9, 2, 3, 0, 0, 0)


def keyed(*loops, function="k.o::f"):
    return {f"{function}#{k}": loop for k, loop in enumerate(loops)}


def test_order_does_not_matter():
    assert compare(keyed(A, B, C), keyed(C, A, B), 0.0) == []


def test_the_loop_that_changed_is_found_wherever_it_stands():
    worse = of_zmm(26, 12, 8, 0, 0, 0)
    found = compare(keyed(A, B, C), keyed(worse, C, A), 0.03)
    assert [(d.what, d.base, d.head) for d in found] == [("instructions", 23 / 12, 26 / 12), ("loads", 7 / 12, 8 / 12)]


def test_loops_that_stayed_are_paired_with_nothing():
    worse = of_zmm(240, 48, 80, 0, 0, 0)  # C unrolled, now larger than A
    found = compare(keyed(A, C), keyed(A, worse), 0.03)
    assert [(d.what, d.base, d.head) for d in found] == [("instructions", 9 / 2, 240 / 48), ("loads", 3 / 2, 80 / 48)]


@pytest.mark.parametrize(("field", "what"), [(4, "spills"), (5, "calls")])
def test_a_new_spill_or_call_counts_whatever_the_threshold(field, what):
    values = [40, 24, 11, 0, 0, 0]
    values[field] = 1
    assert compare(keyed(A, B), keyed(B, of_zmm(*values)), 10.0) == [Difference("k.o::f", what, 0, 1, True)]


def test_a_loop_that_was_split_is_compared_by_sums():
    halves = of_zmm(20, 12, 6, 0, 0, 0), of_zmm(20, 12, 5, 0, 0, 0)
    assert compare(keyed(A, B), keyed(*halves, B), 0.0) == []
    (found,) = compare(keyed(A, B), keyed(of_zmm(24, 12, 6, 0, 0, 0), of_zmm(24, 12, 5, 0, 0, 0), B), 0.03)
    assert (found.what, found.base, found.head) == ("instructions", 63 / 36, 71 / 36)


def test_an_unrolled_loop_is_no_regression():
    assert compare(keyed(A), keyed(of_zmm(78, 48, 22, 0, 0, 0)), 0.0) == []


def test_functions_that_come_and_go_are_listed():
    found = compare(keyed(A, B) | keyed(A, function="k.o::old"), keyed(A, B) | keyed(A, B, function="k.o::new"), 0.03)
    assert found == [Difference("k.o::new", "appeared", 0, 2, False), Difference("k.o::old", "vanished", 1, 0, False)]
    assert [str(d) for d in found] == ["k.o::new: appeared (2 loops)", "k.o::old: vanished (1 loops)"]


@pytest.mark.parametrize("threshold", [-0.01, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold: got"):
        compare({}, {}, threshold)


@pytest.mark.parametrize(
    ("fma", "multiplied"),
    [
        ("vfmadd231ps %zmm2,%zmm1,%zmm0", 64),
        ("vfmadd231pd (%rdi){1to8},%zmm1,%zmm0", 64),
        ("vfmadd231ps %ymm2,%ymm1,%ymm0", 32),
        ("vfmadd231pd (%rdi),%xmm1,%xmm0", 16),
        ("vfmadd231ss %xmm2,%xmm1,%xmm0", 4),
        ("vfnmadd213sd %xmm2,%xmm1,%xmm0", 8),
    ],
)
def test_narrower_vectors_do_less(fma, multiplied):
    (loop,) = loops_in(text(fma, "jne    40 <f>")).values()
    assert loop.multiplied == multiplied
    found = compare({"k.o::f#0": Loop(2, 1, loop.loads, 0, 0, 0, 64)}, {"k.o::f#0": loop}, 0.03)
    assert bool(found) == (multiplied < 64)
