"""A figure of the images that a trained network misclassifies."""

import math

from matplotlib.figure import Figure

from labml_bn.data.mnist import CLASSES
from labml_bn.trained.evaluation import Classification

#: The largest number of images in the figure.
MOST = 100


def draw_mistakes(classification: Classification) -> Figure:
    """The misclassified images, the most confident first, each with its label, prediction and confidence."""
    labels, predicted, names = classification.labels, classification.predicted, CLASSES[classification.dataset]
    confidence = classification.logits.softmax(dim=1).amax(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    shown = wrong[:MOST]
    columns = max(1, math.ceil(math.sqrt(2 * len(shown))))  # twice as wide as high
    rows = max(1, math.ceil(len(shown) / columns))

    figure = Figure(figsize=(1.1 * columns + 0.4, 1.35 * rows + 0.8), layout="constrained")
    title = f"{len(wrong)} of {len(labels)} images misclassified"
    more = f", the {MOST} most confident of them" if len(wrong) > MOST else ""
    figure.suptitle(f"{title}{more}\n(label > prediction, confidence)" if len(wrong) else title, fontsize=9)
    for position, index in enumerate(shown.tolist(), 1):
        axes = figure.add_subplot(rows, columns, position)
        axes.imshow(classification.images.images[index].cpu().numpy(), cmap="gray_r")
        axes.set_axis_off()
        label, prediction = names[int(labels[index])], names[int(predicted[index])]
        axes.set_title(f"{label} > {prediction}  {confidence[index]:.0%}", fontsize=7)
    return figure
