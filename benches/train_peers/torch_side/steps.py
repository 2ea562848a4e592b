"""The steps that are compared, written from the specification on PyTorch eager."""

import torch
import torch.nn.functional as F

from .networks import (
    Pass,
    Ranges,
    classifier,
    head,
    mobilenetv2,
    resnet18,
    weight_quantiser,
)

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.005, 0.9, 5e-4
WEIGHT_BITS, MAP_BITS = 4, 5
STUDENTS = 0.5, 0.25
TEACHER_MOMENTUM, TEMPERATURE = 0.99, 0.5


def cosine(predictions, targets):
    """Negative cosine across views (spec 1.3)."""
    first, second = predictions
    pairs = (first, targets[1]), (second, targets[0])
    return -0.5 * sum(F.cosine_similarity(p, t).mean() for p, t in pairs)


def info_nce(students, targets):
    """NT-Xent of students and a teacher's targets, across views (spec 1.3)."""
    losses = []
    for student, target in zip(students, reversed(targets)):
        both = F.normalize(torch.cat([student, target]))
        logits = (both @ both.T / TEMPERATURE).fill_diagonal_(float("-inf"))
        rows = torch.arange(len(both))
        losses.append(F.cross_entropy(logits, (rows + len(student)) % len(both)))
    return sum(losses) / 2


class Learner:
    """What all steps have in common."""

    def __init__(self, parameters, views):
        self.parameters, self.views = parameters, views
        self.optimiser = torch.optim.SGD(
            parameters.values(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    def descend(self, loss):
        # What took part once has a gradient of zero afterwards, not none, and goes on by its momentum (spec 3.6, fact 3).
        self.optimiser.zero_grad(set_to_none=False)
        loss.backward()
        self.optimiser.step()


class Supervised(Learner):
    """Cross-entropy on the first view."""

    def __init__(self, network, parameters, views):
        super().__init__(parameters, views)
        self.network = network
        self.labels = torch.arange(len(views[0])) % 10

    def step(self):
        features = self.network(Pass(self.parameters), self.views[0])
        loss = F.cross_entropy(classifier(self.parameters, features), self.labels)
        self.descend(loss)
        return [loss.item()]


class Ssql(Learner):
    """Spec section 4.5, SimSiam flavour."""

    def step(self):
        ranges = Ranges()
        z = [self.embed(Pass(self.parameters, maps=ranges.observe), view) for view in self.views]
        targets = [z.detach() for z in z]
        float_loss = cosine([self.predict(z) for z in z], targets)
        eight, drawn = weight_quantiser(8), weight_quantiser(WEIGHT_BITS)
        quantised = Pass(
            self.parameters, weights=drawn, maps=ranges.quantiser(MAP_BITS), stem=eight
        )
        z = [self.embed(quantised, view, weights=eight) for view in self.views]
        quantised_loss = cosine([self.predict(z) for z in z], targets)
        self.descend((float_loss + quantised_loss) / 2)
        return [float_loss.item(), quantised_loss.item()]

    def embed(self, network, view, **options):
        features = resnet18(network, view)
        return head(self.parameters, "projector", features, final_norm=True, **options)

    def predict(self, z):
        return head(self.parameters, "predictor", z)


class Us3l(Learner):
    """Spec section 3.6: one optimiser step per width, against one momentum teacher."""

    def __init__(self, parameters, views):
        super().__init__(parameters, views)
        self.teacher = {
            name: value.detach().clone()
            for name, value in parameters.items()
            if not name.startswith("auxiliary.")
        }

    def step(self):
        losses = []
        with torch.no_grad():
            online = [self.parameters[name] for name in self.teacher]
            torch._foreach_lerp_(list(self.teacher.values()), online, 1 - TEACHER_MOMENTUM)
            targets = [self.embed(self.teacher, view, 1.0) for view in self.views]
        for width in (1.0, *STUDENTS):
            z = [self.embed(self.parameters, view, width) for view in self.views]
            if width == 1.0:
                loss = info_nce(z, targets)
            else:
                loss = cosine([head(self.parameters, "auxiliary", z) for z in z], targets)
            self.descend(loss)
            losses.append(loss.item())
        return losses

    def embed(self, parameters, view, width):
        return head(parameters, "projector", resnet18(Pass(parameters, width), view))


def learner(step, parameters, views):
    match step:
        case "resnet18":
            return Supervised(resnet18, parameters, views)
        case "mobilenetv2":
            return Supervised(mobilenetv2, parameters, views)
        case "ssql":
            return Ssql(parameters, views)
        case "us3l":
            return Us3l(parameters, views)
        case _:
            raise ValueError(f"no step is called {step}")
