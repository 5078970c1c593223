export * from './document.ts'
export * from './fields.ts'
