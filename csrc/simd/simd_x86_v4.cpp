#include "simd/lanes_x86_v4.h"

#include "simd/apply-inl.h"

const gradfold::MathTable gradfold::math_table_x86_v4{gradfold::apply<gradfold::F32>, gradfold::apply<gradfold::F64>,
                                                      gradfold::wrong_member_of_either};
