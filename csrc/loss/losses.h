// The list of losses. A new loss is one file <name>-inl.h beside this one, one line here and one line in losses-inl.h;
// everything that depends on a loss is generated from this list.
#pragma once
#include <string>

#define GRADFOLD_LOSSES(X) \
  X(squared_error, SquaredError) \
  X(log_loss, LogLoss)

namespace gradfold {

enum class Loss : int {
#define GRADFOLD_ENUM(name, type) name,
  GRADFOLD_LOSSES(GRADFOLD_ENUM)
#undef GRADFOLD_ENUM
      count
};

// The loss of that name. Throws std::invalid_argument for a name that is not in the list.
Loss parse_loss(const std::string& name);

}  // namespace gradfold
