// The list of losses. A new point-wise loss is one file <name>-inl.h beside this one, one line here and one line in losses-inl.h;
// everything that depends on it is generated from this list. Apart from log_loss and squared_error the formulas are those of
// scikit-learn's SGDClassifier and SGDRegressor, y > 0 being the positive class.
#pragma once
#include <string>

// Losses of one raw prediction: a struct with evaluate<L>(z, y, epsilon, &loss, &gradient). A z that is NaN must give NaN for both.
#define GRADFOLD_LOSSES(X) \
  X(squared_error, SquaredError) \
  X(log_loss, LogLoss) \
  X(hinge, Hinge) \
  X(squared_hinge, SquaredHinge) \
  X(modified_huber, ModifiedHuber) \
  X(perceptron, Perceptron) \
  X(huber, Huber) \
  X(epsilon_insensitive, EpsilonInsensitive) \
  X(squared_epsilon_insensitive, SquaredEpsilonInsensitive)

namespace gradfold {

enum class Loss : int {
#define GRADFOLD_ENUM(name, type) name,
  GRADFOLD_LOSSES(GRADFOLD_ENUM)
#undef GRADFOLD_ENUM
      multinomial,  // of one raw prediction for each class: gradient/outputs-inl.h
  count
};

// Huber's threshold and the insensitive zone where a caller names none.
constexpr double kLossEpsilon = 0.1;

// The loss of that name. Throws std::invalid_argument for a name that is not in the list.
Loss parse_loss(const std::string& name);

}  // namespace gradfold
