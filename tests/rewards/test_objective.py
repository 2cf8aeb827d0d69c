"""Objectives: composing, storing, and every problem said before anything loads."""

from __future__ import annotations

import json
import math

import pytest

from rewards import R, ensemble, max_, maximize, min_, register
from rewards.errors import ExpressionError
from rewards.expression import Constraint, Number
from rewards.objective import Objective
from rewards.ranges import bounds, directions

DIGEST = "394c117ac114c4a6021b0426f30d9fb1d89b918439cd9ae3fd8c994ec5c5c7ca"
BRIGHT, SAT, UNSAFE = R("brightness"), R("saturation"), R("shapes_unsafe")


def full() -> Objective:
    return (
        maximize(look=0.5 * R("contrast") + R("colorfulness"), safe=-UNSAFE)
        .subject_to(UNSAFE <= 0.03, R("sharpness") >= 0.1)
        .scalarize("smooth_chebyshev", on="sample", mu=0.05)
        .pessimistic(1.5)
    )


def problems(objective: Objective) -> str:
    return "\n".join(objective.problems())


class TestComposing:
    def test_parts(self):
        objective = full()
        assert objective.names == ("look", "safe")
        assert objective.leaves == ("contrast", "colorfulness", "shapes_unsafe", "sharpness")
        assert objective.constraint_names == ("shapes_unsafe", "sharpness")
        assert (objective.scalarization, objective.on, objective.pessimism) == (
            "smooth_chebyshev",
            "sample",
            1.5,
        )
        assert objective.problems() == []

    def test_the_order_of_names_is_that_of_the_weight_vector(self):
        assert maximize(b=BRIGHT, a=SAT).names == ("b", "a")

    def test_defaults(self):
        objective = maximize(a=BRIGHT)
        assert (objective.scalarization, objective.on, objective.pessimism) == ("linear", "mean", 0)
        assert objective.constraints == ()

    def test_every_step_leaves_the_former_alone(self):
        first = maximize(a=BRIGHT)
        first.subject_to(SAT <= 0.5).pessimistic(1.0).scalarize("chebyshev")
        assert first == maximize(a=BRIGHT)

    def test_constraints_add_up(self):
        objective = maximize(a=BRIGHT).subject_to(SAT <= 0.5).subject_to(SAT >= 0.1)
        assert objective.constraint_names == ("saturation <= 0.5", "saturation >= 0.1")

    def test_rewards_without_gradient_are_named(self):
        objective = maximize(a=BRIGHT, b=R("jpeg_compressibility"))
        assert objective.undifferentiable() == ["jpeg_compressibility"]

    def test_prints_as_mathematics(self):
        assert str(full()) == (
            "maximize\n"
            "  look = 0.5 * contrast + colorfulness\n"
            "  safe = -shapes_unsafe\n"
            "subject to\n"
            "  mean shapes_unsafe <= 0.03\n"
            "  mean sharpness >= 0.1\n"
            "by smooth_chebyshev(on='sample', mu=0.05)\n"
            "pessimism 1.5 standard deviations"
        )


class TestStored:
    @pytest.mark.parametrize("objective", [full(), maximize(a=BRIGHT)])
    def test_round_trip_through_json(self, objective):
        assert Objective.from_dict(json.loads(json.dumps(objective.to_dict()))) == objective

    def test_plain_form(self):
        assert full().to_dict() == {
            "maximize": {
                "look": "0.5 * contrast + colorfulness",
                "safe": "-shapes_unsafe",
            },
            "subject_to": ["shapes_unsafe <= 0.03", "sharpness >= 0.1"],
            "scalarization": "smooth_chebyshev",
            "params": {"mu": 0.05},
            "on": "sample",
            "pessimism": 1.5,
        }

    def test_only_maximize_is_needed(self):
        assert Objective.from_dict({"maximize": {"a": "brightness"}}) == maximize(a=BRIGHT)

    @pytest.mark.parametrize("empty", [{}, {"maximize": {}}, {"maximize": None}])
    def test_nothing_to_maximise(self, empty):
        assert "maximize: names no objective" in problems(Objective.from_dict(empty))

    def test_all_text_that_does_not_read_is_reported_at_once(self):
        wrong = {
            "maximize": {"a": "sqrt(brightness)", "b": "saturation", "c": ""},
            "subject_to": ["sharpness < 1", "contrast <= 0.4"],
            "pesimism": 1.0,
        }
        with pytest.raises(ExpressionError) as raised:
            Objective.from_dict(wrong)
        lines = str(raised.value).splitlines()
        assert len(lines) == 4
        assert lines[0].startswith("unknown key 'pesimism'; nearest: 'pessimism'")
        assert lines[1].startswith("maximize.a: 'sqrt(brightness)': unknown call 'sqrt'")
        assert lines[2].startswith("maximize.c: '' is no expression")
        assert lines[3].startswith("subject_to[0]: 'sharpness < 1' is no constraint")

    @pytest.mark.parametrize(
        ("key", "wrong", "message"),
        [
            ("maximize", ["brightness"], "maximize: must be a mapping; got "),
            ("maximize", "brightness", "maximize: must be a mapping; got 'brightness'"),
            ("subject_to", "saturation <= 1", "subject_to: must be a list; got 'saturation <= 1'"),
            ("subject_to", {"saturation": 1}, "subject_to: must be a list; got "),
            ("params", [0.1], "params: must be a mapping; got "),
        ],
    )
    def test_parts_of_the_wrong_kind(self, key, wrong, message):
        with pytest.raises(ExpressionError, match=message):
            Objective.from_dict({"maximize": {"a": "brightness"}, key: wrong})


class TestDirections:
    @pytest.mark.parametrize(
        "expression",
        [
            UNSAFE,
            UNSAFE.calibrated(),
            UNSAFE.clip(0, 0.5),
            BRIGHT + 0.1 * UNSAFE,
            -(BRIGHT - UNSAFE),
            min_(BRIGHT, UNSAFE),
            ensemble(BRIGHT, UNSAFE),
            UNSAFE * BRIGHT,
            UNSAFE / 2,
            1 / (2 - UNSAFE),
        ],
    )
    def test_a_lower_is_better_reward_is_not_maximised(self, expression):
        message = (
            r"maximize.safe: shapes_unsafe is lower-is-better and would be maximised; write "
            r"-R\('shapes_unsafe'\), in YAML -shapes_unsafe"
        )
        with pytest.raises(ExpressionError, match=message):
            maximize(safe=expression)

    @pytest.mark.parametrize(
        "expression",
        [
            -UNSAFE,
            1 - UNSAFE,
            BRIGHT - 0.1 * UNSAFE,
            (-UNSAFE).calibrated(),
            (-UNSAFE).clip(-0.5, 0),
            -max_(UNSAFE, SAT),
            UNSAFE * -2,
            UNSAFE / -2,
            BRIGHT * (1 - UNSAFE),
            1 / (1 + UNSAFE),
        ],
    )
    def test_its_negation_is(self, expression):
        assert maximize(safe=expression).problems() == []

    def test_either_way_is_said(self):
        message = r"in \(brightness - 0.5\) \* shapes_unsafe it may count either way"
        with pytest.raises(ExpressionError, match=message):
            maximize(safe=(BRIGHT - 0.5) * UNSAFE)

    def test_constraints_read_raw_values_in_any_direction(self):
        assert maximize(a=BRIGHT).subject_to(UNSAFE <= 0.03, UNSAFE >= 0.001).problems() == []

    @pytest.mark.parametrize(
        ("expression", "direction"),
        [
            (BRIGHT, 1),
            (2 - BRIGHT, -1),
            (BRIGHT * -3, -1),
            (1 / (1 + BRIGHT), -1),
            (-1 / (1 + BRIGHT), 1),
            (-(-BRIGHT).calibrated(), 1),
            (R("jpeg_compressibility") * BRIGHT, -1),
        ],
    )
    def test_signs_follow_the_chain_rule(self, expression, direction):
        found = [sign for node, sign in directions(expression) if node == BRIGHT]
        assert found == [direction]


class TestBounds:
    @pytest.mark.parametrize(
        ("expression", "low", "high"),
        [
            (BRIGHT, 0, 1),
            (R("sharpness"), 0, 4),
            (R("no_such_reward"), -math.inf, math.inf),
            (2 * BRIGHT - 1, -1, 1),
            (BRIGHT - SAT, -1, 1),
            (-BRIGHT, -1, 0),
            ((BRIGHT - 0.5) * (SAT - 0.25), -0.375, 0.375),  # corners of [-.5, .5] x [-.25, .75]
            (1 / (BRIGHT + 1), 0.5, 1),
            (1 / BRIGHT, -math.inf, math.inf),
            (R("jpeg_compressibility"), -math.inf, 0),
            (0 * R("jpeg_compressibility"), 0, 0),
            (R("jpeg_compressibility").clip(-5, 5), -5, 0),
            (min_(BRIGHT, 0.5), 0, 0.5),
            (max_(BRIGHT, 0.5), 0.5, 1),
            (ensemble(BRIGHT, 3 * SAT), 0, 2),
            (BRIGHT.calibrated(), -math.inf, math.inf),
        ],
    )
    def test_interval_arithmetic(self, expression, low, high):
        assert bounds(expression) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.usefixtures("unchecked")
class TestProblems:
    """Objectives built past the checks, as from a file."""

    def test_all_in_one_go(self):
        objective = Objective.from_dict(
            {
                "maximize": {"a": "brighness", "b b": "shapes_unsafe", "c": "1 + 2"},
                "subject_to": ["saturation <= 1.5", "contrast <= 0.1", "contrast >= 0.2"],
                "scalarization": "chebichev",
                "on": "means",
                "pessimism": -1,
            }
        )
        found = objective.problems()
        for i, start in enumerate(
            [
                "maximize.a: unknown reward 'brighness'; nearest: 'brightness'",
                "maximize: a name is letters, digits, '_', '.' and '-'; got 'b b'",
                "maximize.b b: shapes_unsafe is lower-is-better",
                "maximize.c: 1 + 2 reads no reward",
                "subject_to[0]: saturation <= 1.5: the threshold must lie in the range of "
                "saturation, 0 .. 1",
                "subject_to[2]: contrast cannot be both >= 0.2 and <= 0.1",
                "scalarization: unknown 'chebichev'; nearest: 'chebyshev'",
                "on: must be 'mean' or 'sample'; got 'means'",
                "pessimism: must be a finite number of at least 0; got -1",
            ]
        ):
            assert found[i].startswith(start)
        assert len(found) == 9
        with pytest.raises(ExpressionError) as raised:
            objective.bind()
        assert str(raised.value).splitlines() == found

    @pytest.mark.parametrize(
        ("constraint", "message"),
        [
            (R("nothing") <= 1, r"subject_to\[0\]: unknown reward 'nothing'"),
            (Constraint(Number(1.0), "<=", 2.0), r"subject_to\[0\]: 1 reads no reward"),
            (UNSAFE <= 3, "must lie in the range of shapes_unsafe, 0 .. 1"),
            (UNSAFE >= -0.1, "must lie in the range of shapes_unsafe, 0 .. 1"),
            (BRIGHT + SAT >= 2.5, r"range of brightness \+ saturation, 0 .. 2"),
        ],
    )
    def test_a_constraint(self, constraint, message):
        with pytest.raises(ExpressionError, match=message):
            maximize(a=BRIGHT).subject_to(constraint)

    def test_a_constraint_twice(self):
        with pytest.raises(ExpressionError, match=r"saturation <= 0.5 is written twice"):
            maximize(a=BRIGHT).subject_to(SAT <= 0.5, SAT <= 0.5)

    def test_bounds_that_contradict_each_other(self):
        with pytest.raises(ExpressionError, match=r"saturation cannot be both >= 0.6 and <= 0.5"):
            maximize(a=BRIGHT).subject_to(SAT <= 0.5).subject_to(SAT >= 0.6)

    @pytest.mark.parametrize("wrong", [True, "saturation <= 1", SAT, None])
    def test_what_is_no_constraint(self, wrong):
        with pytest.raises(
            ExpressionError, match='a constraint reads R\\("name"\\) <= number; got'
        ):
            maximize(a=BRIGHT).subject_to(wrong)

    @pytest.mark.parametrize("wrong", ["brightness", 1.0, None])
    def test_what_is_no_expression(self, wrong):
        message = r'maximize.a: an objective is an expression such as R\("a"\); got '
        with pytest.raises(ExpressionError, match=message):
            maximize(a=wrong)

    def test_nothing_at_all(self):
        with pytest.raises(ExpressionError, match="names no objective; write at least one"):
            maximize()

    @pytest.mark.parametrize(
        "denominator", [Number(0.0), BRIGHT, SAT - 0.5, R("jpeg_compressibility"), SAT - SAT]
    )
    def test_a_division_that_may_be_by_zero(self, denominator):
        with pytest.raises(ExpressionError, match=r"may divide by zero: .* ranges over .* clip"):
            maximize(a=BRIGHT / denominator)

    def test_a_bounded_division(self):
        assert maximize(a=BRIGHT / SAT.clip(0.1, 1)).problems() == []

    @pytest.mark.parametrize(
        ("name", "params", "message"),
        [
            ("lineal", {}, "scalarization: unknown 'lineal'; nearest: 'linear'"),
            ("linear", {"mu": 1.0}, "scalarization: linear has no parameter 'mu'"),
            ("chebyshev", {"rhoo": 1.0}, "chebyshev has no parameter 'rhoo'; nearest: 'rho'"),
            ("chebyshev", {"rho": -1.0}, "chebyshev: rho must be a finite number of at least 0"),
            ("smooth_chebyshev", {"mu": 0.0}, "mu must be a finite number above 0; got 0"),
            ("smooth_chebyshev", {"mu": math.nan}, "mu must be a finite number above 0; got nan"),
            ("smooth_chebyshev", {"ideal": math.inf}, "ideal must be a finite number; got inf"),
            ("smooth_chebyshev", {"mu": "small"}, "mu must be a finite number above 0; got 'small"),
            ("smooth_chebyshev", {"mu": True}, "mu must be a finite number above 0; got True"),
        ],
    )
    def test_scalarisation(self, name, params, message):
        with pytest.raises(ExpressionError, match=message):
            maximize(a=BRIGHT).scalarize(name, **params)

    def test_on(self):
        with pytest.raises(ExpressionError, match="on: must be 'mean' or 'sample'; got 'means'"):
            maximize(a=BRIGHT).scalarize("linear", on="means")

    @pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, "1", True])
    def test_pessimism(self, wrong):
        message = "pessimism: must be a finite number of at least 0; got "
        with pytest.raises(ExpressionError, match=message):
            maximize(a=BRIGHT).pessimistic(wrong)

    def test_pessimism_counts_once(self):
        pessimistic = maximize(a=ensemble(BRIGHT, SAT, aggregate="min"))
        with pytest.raises(ExpressionError, match="would count its disagreement twice"):
            pessimistic.pessimistic(1.0)

    def test_pessimism_needs_a_direction(self):
        with pytest.raises(ExpressionError, match="it is unclear which way that is"):
            maximize(a=(R("contrast") - 0.2) * ensemble(BRIGHT, SAT, aggregate="min"))

    def test_two_rewards_of_one_name(self):
        def near(target):
            @register
            def distance(images, prompts):
                return -(images.mean((1, 2, 3)) - target).abs()

            return distance

        with pytest.raises(ExpressionError, match=r"two different rewards are named .*distance"):
            maximize(dark=R(near(0.0)), light=R(near(1.0)))

    def test_one_reward_twice_is_one_reward(self):
        @register
        def distance(images, prompts): ...

        assert len(maximize(a=R(distance), b=1 - R(distance)).leaves) == 1


class TestDigest:
    def test_is_stable(self):
        # Kept runs are compared by it: a change of this number is a change of their identity.
        objective = maximize(look=0.5 * R("contrast") + R("colorfulness"), safe=-UNSAFE)
        assert objective.digest == DIGEST

    def test_says_the_same_for_what_means_the_same(self):
        plain = full().to_dict()
        again = Objective.from_dict(
            {
                **plain,
                "maximize": {"look": "0.50*contrast+colorfulness", "safe": "-1 * shapes_unsafe"},
                "subject_to": plain["subject_to"][::-1],
                "params": {"mu": 0.05, "ideal": 3},
            }
        )
        assert again.digest == full().digest

    @pytest.mark.parametrize(
        "change",
        [
            {"maximize": {"safe": "-shapes_unsafe", "look": "0.5 * contrast + colorfulness"}},
            {"maximize": {"look": "0.6 * contrast + colorfulness", "safe": "-shapes_unsafe"}},
            {"maximize": {"look": "colorfulness + 0.5 * contrast", "safe": "-shapes_unsafe"}},
            {"subject_to": ["shapes_unsafe <= 0.03"]},
            {"params": {"mu": 0.06}},
            {"scalarization": "chebyshev", "params": {}},
            {"on": "mean"},
            {"pessimism": 1.0},
        ],
    )
    def test_says_another_for_what_differs(self, change):
        assert Objective.from_dict({**full().to_dict(), **change}).digest != full().digest
