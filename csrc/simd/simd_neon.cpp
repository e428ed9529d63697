#include "simd/lanes_neon.h"

#include "simd/apply-inl.h"

const gradfold::MathTable gradfold::math_table_neon{gradfold::apply<gradfold::F32>, gradfold::apply<gradfold::F64>,
                                                    gradfold::wrong_member_of_either};
