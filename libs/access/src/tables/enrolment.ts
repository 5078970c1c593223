import { serviceNames } from '@weft/identity'
import type {
  CertificateServiceService,
  EnrolmentServiceService,
} from '@weft/proto/weftline/config/v1/enrolment.ts'
import type { AccessTable } from '../rule.ts'

/** EnrolmentService: tokens, codes and signatures in the requests say who somebody is. */
export const enrolmentAccess: AccessTable<EnrolmentServiceService> = {
  join: { anyone: true },
  login: { anyone: true },
  renewExpired: { anyone: true },
}

/** CertificateService: each for itself, as the certificate says. */
export const certificateAccess: AccessTable<CertificateServiceService> = {
  renew: { services: serviceNames, hosts: 'any', users: 'any' },
  rotateKeys: { hosts: 'any' },
  leave: { hosts: 'any' },
}
