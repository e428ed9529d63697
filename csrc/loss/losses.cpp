#include "loss/losses.h"

#include <stdexcept>

namespace gradfold {

Loss parse_loss(const std::string& name) {
  std::string names;
#define GRADFOLD_PARSE(loss, type)      \
  if (name == #loss) return Loss::loss; \
  names += std::string(names.empty() ? "" : ", ") + #loss;
  GRADFOLD_LOSSES(GRADFOLD_PARSE)
#undef GRADFOLD_PARSE
  if (name == "multinomial") return Loss::multinomial;
  throw std::invalid_argument("loss: got '" + name + "', wanted one of " + names + ", multinomial");
}

}  // namespace gradfold
