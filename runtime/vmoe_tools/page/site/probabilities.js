/** Converts logits to probabilities. */

function softmax(logits) {
  const top = logits.reduce((left, right) => Math.max(left, right)), all = Array.from(logits, (logit) => Math.exp(logit - top));
  const sum = all.reduce((left, right) => left + right);
  return all.map((each) => each / sum);
}

function sigmoid(logits) {
  return Array.from(logits, (logit) => 1 / (1 + Math.exp(-logit)));
}

/** Return the probability of each class; `kind` is "softmax" or "sigmoid", as in the bundle's manifest. */
export function probabilitiesOf(logits, kind) {
  return { softmax, sigmoid }[kind](logits);
}
