"""How much each group of coupled channels matters, without any gate."""

from keras_gates.surgeon.scores.score import CRITERIA as CRITERIA
from keras_gates.surgeon.scores.score import score as score
